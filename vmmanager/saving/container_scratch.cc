#include "vmmanager/saving/container_scratch.h"

#include <memory>
#include <utility>

namespace ferry::vm {

std::string ContainerScratch::FileOf(const std::string& container_id) const {
  if (containers_ == nullptr) return "";
  const auto container = containers_->FindById(container_id);
  return container == nullptr ? "" : container->record().scratch_file();
}

Task<absl::Status> ContainerScratch::Put(std::string container_id, std::string file) {
  if (containers_ == nullptr) co_return absl::OkStatus();
  const auto container = containers_->FindById(container_id);
  if (container == nullptr) co_return absl::OkStatus();
  co_return co_await container->UseScratch(std::move(file));
}

std::string ContainerScratch::OwnerOf(const std::string& vm_id, const std::string& file) const {
  if (containers_ == nullptr) return "";
  const auto container = containers_->WriterTo(vm_id, file);
  return container == nullptr ? "" : container->id();
}

}  // namespace ferry::vm
