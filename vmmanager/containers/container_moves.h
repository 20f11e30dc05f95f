#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ferry/v1/migration.pb.h"
#include "vmmanager/containers/container_inventory.h"

// The part that containers have in the migration of their VM. What the guest has of them goes with
// the VM; what goes another way is what they consist of on the host: records, layers, scratch
// files.
namespace ferry::vm {

// The source's half. Thread: the executor's only.
class ContainerExports {
 public:
  explicit ContainerExports(ContainerInventory& containers) : containers_(containers) {}

  // Whether the VM's containers could move. FAILED_PRECONDITION with what to do.
  absl::Status CheckMovable(const std::string& vm_id, v1::CopyStorage storage) const;
  // What the destination has to know of them, and whether their scratch disks can be sent there.
  // From here on, until End(), a proof lies beside each scratch file. The VM must be held by its
  // migration.
  Task<absl::StatusOr<std::vector<state::v1::ContainerRecord>>> Begin(std::string vm_id,
                                                                      v1::CopyStorage storage);
  // As they are now, and which of their scratch disks would be sent in any case. An error says why
  // one cannot be.
  Task<absl::StatusOr<std::vector<state::v1::ContainerRecord>>> Describe(std::string vm_id,
                                                                         v1::CopyStorage storage);
  // As they are now, with the output that has become theirs since.
  std::vector<state::v1::ContainerRecord> Cut(const std::string& vm_id) const;
  // The migration is over, whatever became of it.
  Task<void> End(std::string vm_id);

  // NOT_FOUND if this host has no such layer.
  struct Layer {
    std::string path;
    uint64_t bytes = 0;
  };
  absl::StatusOr<Layer> FindLayer(const std::string& digest) const;

 private:
  void AddOutput(size_t limit, state::v1::ContainerRecord* record) const;
  // That a scratch disk is sent.
  struct Offer {
    ScratchSize size;
    bool always = false;
  };
  static void AddOffer(const Offer& offer, state::v1::ContainerRecord* record);
  std::optional<Offer> OfferOf(const std::string& vm_id, const std::string& id) const;
  // Whether the scratch disk is in this host's own folder, and goes with its container.
  bool IsOwn(const VmContainer& container) const;
  // Whether its scratch disk is sent.
  Task<absl::StatusOr<std::optional<Offer>>> OfferFor(std::shared_ptr<VmContainer> container,
                                                      v1::CopyStorage storage) const;

  ContainerInventory& containers_;
  struct Proof {
    std::string file;
    std::string word;
  };
  std::map<std::string, std::vector<Proof>> proven_;          // by VM
  std::map<std::string, std::set<std::string>> with_output_;  // by VM: whose output is in the plan
  std::map<std::string, std::map<std::string, Offer>> offered_;  // by VM and container
};

// A container's scratch disk whose content comes from another host, into a file of this host's own.
struct ArrivingScratch {
  std::string source_id;  // the container's id there
  std::string id;         // and here
  DiskPlace place;
  ScratchSize size;
  std::string file;
};

// What a session calls it among the VM's disks; no disk of the VM's own is called so.
std::string ScratchDiskName(const std::string& source_id);

// The containers that one migration brings to this host, from its plan until they are this host's.
// Thread: the executor's only.
class ContainerArrivals {
 public:
  ContainerArrivals(ContainerInventory& containers, std::shared_ptr<UtilityVm> vm,
                    std::vector<state::v1::ContainerRecord> records);
  ~ContainerArrivals();
  ContainerArrivals(const ContainerArrivals&) = delete;
  ContainerArrivals& operator=(const ContainerArrivals&) = delete;

  const std::vector<state::v1::ContainerRecord>& planned() const { return planned_; }
  // Says where this host has what a container consists of, and by which id it is to know it; empty:
  // at the source's path, by the source's id unless it was given another before. NOT_FOUND if none
  // of that source's id comes; ALREADY_EXISTS if this host has a container of that id, or keeps a
  // disk of one, their guest knows another one by it, or it was bound to another one;
  // FAILED_PRECONDITION "scratch_not_shared" if this host does not see the same scratch file, and
  // its source does not send it or a file is given. Repeating it does no harm.
  Task<absl::Status> Bind(std::string source_id, std::string scratch_file,
                          std::string id = std::string());
  // By which this host is to know one that is bound.
  const std::string& IdOf(const std::string& source_id) const { return ids_.at(source_id); }
  // Of those that are bound: the scratch disks that are to be sent.
  std::vector<ArrivingScratch> ScratchToCome() const;
  // Empty disks for these.
  Task<absl::Status> MakeScratch();
  // Of those that are bound: the layers that this host lacks, with their sizes.
  std::map<std::string, uint64_t> MissingLayers() const;
  // The layers that are bound and here are kept for their containers.
  Task<absl::Status> PinLayers();
  // FAILED_PRECONDITION "containers_unbound" or "layers_missing", naming the first.
  absl::Status CheckReady() const;

  // They become this host's, as the cut says they are.
  Task<absl::Status> Arrive(std::vector<state::v1::ContainerRecord> cut);
  // They do not come.
  Task<void> Discard();

 private:
  ImageStore* images() const { return containers_.deps().images; }
  // From here on the container has that id here, and another that it was to have goes to others.
  Task<absl::Status> Claim(std::string source_id, std::string id);
  // Lets go of what this host keeps under that id.
  Task<void> Unclaim(std::string id);
  // With the id that it has here, if it has been claimed.
  state::v1::ContainerRecord AsHere(state::v1::ContainerRecord record) const;
  // Where this host has the scratch disk, or will have it.
  Task<absl::StatusOr<std::string>> FindScratch(state::v1::ContainerRecord record,
                                                std::string given);
  absl::Status BindDisks(const state::v1::ContainerRecord& record, const std::string& scratch);
  absl::Status WriteOutput(const state::v1::ContainerRecord& record) const;
  absl::Status CheckSpec(const state::v1::ContainerRecord& record) const;
  absl::Status CheckSameSpec(const state::v1::ContainerRecord& cut) const;

  ContainerInventory& containers_;
  const std::shared_ptr<std::set<std::string>> expected_;  // all that this host expects
  const std::shared_ptr<UtilityVm> vm_;
  const std::vector<state::v1::ContainerRecord> planned_;
  // By the source's id:
  std::map<std::string, std::string> ids_;    // here, where nobody else has them
  std::map<std::string, std::string> bound_;  // the scratch file here, or nothing
  std::map<std::string, ArrivingScratch> scratch_to_come_;
  std::map<std::string, std::string> scratch_made_;  // by the id here: files that are ours alone
};

}  // namespace ferry::vm
