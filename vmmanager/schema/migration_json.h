#pragma once

#include <boost/json/object.hpp>

#include "vmmanager/schema/json.h"
#include "vmmanager/schema/migration.h"

// The migration structs as parts of larger JSON documents.
namespace ferry::schema {

boost::json::object ToJsonObject(const MigrationInitializeOptions& options);
void ReadJson(JsonReader& reader, MigrationInitializeOptions& options);

}  // namespace ferry::schema
