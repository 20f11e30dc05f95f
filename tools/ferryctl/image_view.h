#pragma once

#include <string>

#include "ferry/v1/image.pb.h"

// How images look.
namespace ferry::ctl {

std::string ImageTable(const v1::ListImagesResponse& response);
std::string ImageDetails(const v1::Image& image);
// "Imported web:latest: 2 layers, 1.5 MiB".
std::string ImportedLine(const v1::Image& image);
// One line: what the import is doing.
std::string ImportProgressLine(const v1::ImportImageResponse::Progress& progress);

}  // namespace ferry::ctl
