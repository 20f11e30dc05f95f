#pragma once

namespace ferry::vm {

// The words around the names in the text of a job (v1::Job.what). People read it, and so does
// whoever judges what became of a job that was interrupted.
inline constexpr char kTake[] = "take ";
inline constexpr char kThenHalt[] = ", then halt";  // behind what was taken
inline constexpr char kThenPause[] = ", then pause";
inline constexpr char kLoad[] = "load ";
inline constexpr char kDelete[] = "delete ";
inline constexpr char kDefine[] = "define ";
inline constexpr char kMove[] = "move ";
inline constexpr char kMoveTo[] = " to ";  // between a disk's name and its file's

// The phase of a job with a snapshot that its VM had when the job began; of others nobody can tell
// afterwards whether they are gone.
inline constexpr char kOfKnownSnapshot[] = "in its VMM";

}  // namespace ferry::vm
