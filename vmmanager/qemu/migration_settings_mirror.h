#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

namespace ferry::vm {

// What migration capabilities and parameters a QEMU is known to have, so that it is sent only what
// differs: it takes more than 10 us to read each byte, and far less to say what it has.
class MigrationSettingsMirror {
 public:
  // Arguments of migrate-set-capabilities and migrate-set-parameters without what QEMU has already;
  // empty if that is all.
  boost::json::object CapabilityChanges(const boost::json::object& wanted) const;
  boost::json::object ParameterChanges(const boost::json::object& wanted) const;

  // QEMU has taken these.
  void NoteCapabilities(const boost::json::object& arguments);
  void NoteParameters(const boost::json::object& arguments);

  // QEMU's answers to query-migrate-capabilities and query-migrate-parameters. What is not in them
  // as it should be is not known.
  void ReadCapabilities(const boost::json::value& reply);
  void ReadParameters(const boost::json::value& reply);

  // It may or may not have taken what it was sent.
  void Forget();

 private:
  boost::json::object capabilities_;  // their states by name
  boost::json::object parameters_;
};

}  // namespace ferry::vm
