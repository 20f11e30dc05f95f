#include "vmmanager/images/image_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <future>

#include "tests/unit/vmmanager/images/images_fixture.h"
#include "vmmanager/images/folder_list.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class ImageStoreTest : public ImagesTest {};

TEST_F(ImageStoreTest, AnImageIsFoundByNameAndIdAlsoAfterARestart) {
  const auto image = Add("web", {"base", "top"}, "serve");
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->name, "web:latest");
  ASSERT_EQ(image->layers.size(), 2u);
  EXPECT_EQ(image->layers[0].digest, DigestOf("base"));
  EXPECT_EQ(image->layers[1].digest, DigestOf("top"));
  for (int start = 0; start < 2; ++start, Reopen()) {
    for (const std::string& name : {std::string("web"), std::string("web:latest"), image->id}) {
      const auto found = store_->Find(name);
      ASSERT_TRUE(found.ok()) << found.status();
      EXPECT_EQ(*found, *image);
    }
    EXPECT_THAT(*store_->List(), ElementsAre(*image));
    EXPECT_TRUE(store_->Has(DigestOf("base")));
    EXPECT_EQ(ReadFile(store_->PathOf(DigestOf("base"))), "base");
    EXPECT_TRUE(Await(store_->Verify(DigestOf("top"))).ok());
  }
  EXPECT_TRUE(absl::IsNotFound(store_->Find("other").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(store_->Find("NO NAME").status()));
  EXPECT_TRUE(absl::IsNotFound(Await(store_->Verify(DigestOf("other")))));
}

TEST_F(ImageStoreTest, LayersAreReadOnlyAndHaveTheirDigestAsName) {
  ASSERT_TRUE(Add("web", {"base"}).ok());
  struct stat info {};
  ASSERT_EQ(::stat(store_->PathOf(DigestOf("base")).c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0400u);
  EXPECT_THAT(LayerFiles(), ElementsAre("sha256-" + DigestOf("base").substr(7) + ".erofs"));
  EXPECT_THAT(TempFiles(), IsEmpty());
}

TEST_F(ImageStoreTest, ImagesShareLayersWhichGoWithTheLast) {
  ASSERT_TRUE(Add("a", {"base", "a"}).ok());
  ASSERT_TRUE(Add("b", {"base", "b"}).ok());
  EXPECT_THAT(LayerFiles(), SizeIs(3));
  ASSERT_TRUE(Await(store_->Remove("a")).ok());
  EXPECT_THAT(LayerFiles(), SizeIs(2));
  EXPECT_TRUE(store_->Find("b").ok());
  ASSERT_TRUE(Await(store_->Remove("b")).ok());
  EXPECT_THAT(LayerFiles(), IsEmpty());
  EXPECT_TRUE(absl::IsNotFound(Await(store_->Remove("b"))));
  EXPECT_THAT(FilesIn(images() + "/names"), IsEmpty());
}

TEST_F(ImageStoreTest, TheSameInputIsTheSameImageAndAnotherOneTakesTheNamesPlace) {
  const auto first = Add("web", {"base", "base"});
  const auto again = Add("other", {"base", "base"});
  ASSERT_TRUE(first.ok() && again.ok());
  EXPECT_EQ(first->id, again->id);
  EXPECT_EQ(first->layers, again->layers);
  EXPECT_THAT(LayerFiles(), SizeIs(1));
  ASSERT_TRUE(Await(store_->Remove("other")).ok());
  const auto newer = Add("web", {"newer"});
  ASSERT_TRUE(newer.ok());
  EXPECT_NE(newer->id, first->id);
  EXPECT_THAT(*store_->List(), ElementsAre(*newer));
  EXPECT_THAT(LayerFiles(), SizeIs(1));
}

TEST_F(ImageStoreTest, WhatIsPinnedIsKeptAndNamedUntilItsOwnerLetsGo) {
  const auto image = Add("web", {"base", "top"});
  ASSERT_TRUE(image.ok());
  const auto pinned = Await(store_->Pin("container-1", "web"));
  ASSERT_TRUE(pinned.ok()) << pinned.status();
  EXPECT_EQ(*pinned, *image);
  ASSERT_TRUE(Await(store_->Pin("container-1", "web")).ok());
  for (int start = 0; start < 2; ++start, Reopen()) {
    const absl::Status refused = Await(store_->Remove("web"));
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(refused.message()), HasSubstr("web:latest is in use by container-1"));
    EXPECT_EQ(rpc::ReasonOf(refused), "image_in_use");
  }
  // Another image of that name does not take the container's layers away, and neither does an end
  // of the last name.
  ASSERT_TRUE(Add("web", {"newer"}).ok());
  ASSERT_TRUE(Await(store_->Remove("web")).ok());
  Reopen();
  EXPECT_TRUE(store_->Has(DigestOf("base")));
  EXPECT_FALSE(store_->Has(DigestOf("newer")));
  ASSERT_TRUE(Await(store_->Unpin("container-1")).ok());
  EXPECT_THAT(LayerFiles(), IsEmpty());
  EXPECT_THAT(FilesIn(images() + "/pins"), IsEmpty());
  EXPECT_TRUE(Await(store_->Unpin("container-1")).ok());
}

TEST_F(ImageStoreTest, OfTwoNamesOfAPinnedImageOneMayGo) {
  ASSERT_TRUE(Add("web", {"base"}).ok());
  ASSERT_TRUE(Add("web:old", {"base"}).ok());
  ASSERT_TRUE(Await(store_->Pin("c", "web")).ok());
  EXPECT_TRUE(Await(store_->Remove("web")).ok());
  EXPECT_FALSE(Await(store_->Remove("web:old")).ok());
}

TEST_F(ImageStoreTest, OnlyLayersThatAreThereArePinned) {
  ASSERT_TRUE(Add("web", {"base"}).ok());
  EXPECT_TRUE(
      absl::IsNotFound(Await(store_->PinLayers("vm-1", {DigestOf("base"), DigestOf("other")}))));
  EXPECT_THAT(store_->Pins(), IsEmpty());
  ASSERT_TRUE(Await(store_->PinLayers("vm-1", {DigestOf("base")})).ok());
  // The layer is kept, and not the name.
  ASSERT_TRUE(Await(store_->Remove("web")).ok());
  EXPECT_TRUE(store_->Has(DigestOf("base")));
  EXPECT_TRUE(absl::IsNotFound(Await(store_->Pin("vm-2", "web")).status()));
  for (const std::string& owner : {std::string(), std::string("../x"), std::string(".x"),
                                   std::string("a/b"), std::string(129, 'a')}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Await(store_->Unpin(owner)))) << owner;
  }
}

TEST_F(ImageStoreTest, OfLayersThatAreAskedForThoseThatAreThereArePinned) {
  ASSERT_TRUE(Add("web", {"base", "top"}).ok());
  ASSERT_EQ(::unlink(store_->PathOf(DigestOf("top")).c_str()), 0);
  const std::vector<std::string> wanted = {DigestOf("base"), DigestOf("top"), DigestOf("other")};
  const absl::Status pinned = Await(store_->PinLayersHere("vm-1", wanted));
  ASSERT_TRUE(pinned.ok()) << pinned;
  ASSERT_THAT(store_->Pins(), SizeIs(1));
  EXPECT_THAT(store_->Pins()[0].layers, ElementsAre(DigestOf("base")));
  EXPECT_TRUE(store_->Has(DigestOf("base")));
  EXPECT_FALSE(store_->Has(DigestOf("top")));
  ASSERT_TRUE(Await(store_->Remove("web")).ok());
  EXPECT_TRUE(store_->Has(DigestOf("base")));
}

TEST_F(ImageStoreTest, LayersThatCannotBeWrittenDownAsNeededAreNotPinned) {
  ASSERT_TRUE(Add("web", {"base"}).ok());
  std::filesystem::remove_all(images() + "/pins");
  std::filesystem::remove_all(images() + "/tmp");
  const absl::Status refused = Await(store_->PinLayersHere("vm-1", {DigestOf("base")}));
  EXPECT_FALSE(refused.ok());
  EXPECT_FALSE(absl::IsDataLoss(refused)) << refused;
  EXPECT_THAT(store_->Pins(), IsEmpty());
  EXPECT_TRUE(store_->Has(DigestOf("base")));
}

TEST_F(ImageStoreTest, ALayerFromElsewhereIsTakenOnlyWithItsDigest) {
  auto folder = NewFolder();
  WriteFile(folder->path() + "/came", "layer");
  const absl::Status refused = Await(store_->Adopt("session-1", DigestOf("other"), "came", folder));
  EXPECT_EQ(refused.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(LayerFiles(), IsEmpty());
  EXPECT_THAT(store_->Pins(), IsEmpty());
  ASSERT_TRUE(Await(store_->Adopt("session-1", DigestOf("layer"), "came", folder)).ok());
  EXPECT_TRUE(store_->Has(DigestOf("layer")));
  // Once more, as after a session that was begun again.
  WriteFile(folder->path() + "/came", "layer");
  ASSERT_TRUE(Await(store_->Adopt("session-1", DigestOf("layer"), "came", folder)).ok());
  Reopen();
  EXPECT_TRUE(store_->Has(DigestOf("layer")));
  ASSERT_TRUE(Await(store_->Unpin("session-1")).ok());
  EXPECT_FALSE(store_->Has(DigestOf("layer")));
}

TEST_F(ImageStoreTest, NoLinkIsTakenForALayer) {
  auto folder = NewFolder();
  WriteFile(folder_.path() + "/secret", "secret");
  std::filesystem::create_symlink(folder_.path() + "/secret", folder->path() + "/came");
  std::filesystem::create_hard_link(folder_.path() + "/secret", folder->path() + "/hard");
  for (const char* file : {"came", "hard", "absent"}) {
    EXPECT_FALSE(Await(store_->Adopt("s", DigestOf("secret"), file, folder)).ok()) << file;
  }
  EXPECT_EQ(ReadFile(folder_.path() + "/secret"), "secret");
}

TEST_F(ImageStoreTest, WhatACrashLeftIsSweptOnStart) {
  ASSERT_TRUE(Add("web", {"base"}).ok());
  // An import that was under way, and one that had its layers but no name yet.
  std::filesystem::create_directories(images() + "/tmp/abc/out");
  WriteFile(images() + "/tmp/abc/out/layer-0", "half");
  WriteFile(images() + "/tmp/def", "draft");
  WriteFile(store_->PathOf(DigestOf("nobody's")), "nobody's");
  Reopen();
  EXPECT_THAT(TempFiles(), IsEmpty());
  EXPECT_THAT(LayerFiles(), SizeIs(1));
  EXPECT_TRUE(store_->Find("web").ok());
}

TEST_F(ImageStoreTest, DamageIsToldAndLosesNothingElse) {
  ASSERT_TRUE(Add("web", {"base"}).ok());
  ASSERT_TRUE(Add("job", {"work"}).ok());
  // A layer with another byte, which only a look at all of them shows.
  const std::string base = store_->PathOf(DigestOf("base"));
  std::filesystem::permissions(base, std::filesystem::perms::owner_all);
  WriteFile(base, "bAse");
  EXPECT_EQ(Await(store_->Verify(DigestOf("base"))).code(), absl::StatusCode::kDataLoss);
  // A layer that is gone.
  std::filesystem::remove(base);
  Reopen();
  EXPECT_EQ(store_->Find("web").status().code(), absl::StatusCode::kDataLoss);
  // A name's file that is not whole: its layers may be needed, so none is collected.
  const std::string names = images() + "/names/" + DigestOf("job:latest").substr(7);
  const std::string text = ReadFile(names);
  WriteFile(names, text.substr(0, text.size() / 2));
  Reopen();
  EXPECT_TRUE(absl::IsNotFound(store_->Find("job").status()));
  EXPECT_TRUE(store_->Has(DigestOf("work")));
  WriteFile(names, text);
  Reopen();
  EXPECT_TRUE(store_->Find("job").ok());
}

TEST_F(ImageStoreTest, AFolderThatCannotBeReadIsNotTakenForAnEmptyOne) {
  ASSERT_TRUE(Add("web", {"base"}).ok());
  for (const char* folder : {"/names", "/layers"}) {
    store_.reset();
    const std::string path = images() + folder;
    std::filesystem::rename(path, folder_.path() + "/aside");
    WriteFile(path, "no folder");
    const absl::Status refused = Await(OpenWith(StoreOptions()));
    EXPECT_FALSE(refused.ok()) << folder;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(folder));
    std::filesystem::remove(path);
    std::filesystem::rename(folder_.path() + "/aside", path);
    EXPECT_THAT(LayerFiles(), SizeIs(1)) << folder;
  }
  Reopen();
  EXPECT_TRUE(store_->Find("web").ok());
}

TEST_F(ImageStoreTest, AfterAWriteThatFailedNoLayerIsRemovedUntilTheNextStart) {
  ASSERT_TRUE(Add("web", {"base"}).ok());
  const std::string names = images() + "/names";
  std::filesystem::rename(names, folder_.path() + "/aside");
  WriteFile(names, "no folder");
  // Perhaps its record was written, and only that could not be told.
  EXPECT_FALSE(Add("job", {"work"}).ok());
  EXPECT_THAT(LayerFiles(), SizeIs(2));
  std::filesystem::remove(names);
  std::filesystem::rename(folder_.path() + "/aside", names);
  ASSERT_TRUE(Await(store_->Remove("web")).ok());
  EXPECT_THAT(LayerFiles(), SizeIs(2));
  Reopen();
  EXPECT_THAT(LayerFiles(), IsEmpty());
}

TEST_F(ImageStoreTest, ALayerThatCannotBeRemovedIsNotForgotten) {
  ASSERT_TRUE(Add("web", {"base"}).ok());
  const std::string path = store_->PathOf(DigestOf("base"));
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  ASSERT_TRUE(Await(store_->Remove("web")).ok());
  EXPECT_TRUE(store_->Has(DigestOf("base")));
  std::filesystem::remove(path);
  ASSERT_TRUE(Add("job", {"work"}).ok());
  EXPECT_FALSE(store_->Has(DigestOf("base")));
}

TEST_F(ImageStoreTest, ALayerThatSomebodyRemovedIsMissedAndComesBackWithAnImport) {
  ASSERT_TRUE(Add("web", {"base", "top"}).ok());
  const std::string path = store_->PathOf(DigestOf("base"));
  std::filesystem::remove(path);
  const absl::Status missed = Await(store_->Pin("c", "web")).status();
  EXPECT_EQ(missed.code(), absl::StatusCode::kDataLoss) << missed;
  EXPECT_THAT(store_->Pins(), IsEmpty());
  EXPECT_TRUE(absl::IsNotFound(Await(store_->PinLayers("c", {DigestOf("base")}))));
  ASSERT_TRUE(Add("web", {"base", "top"}).ok());
  EXPECT_EQ(ReadFile(path), "base");
  EXPECT_TRUE(Await(store_->Pin("c", "web")).ok());
  // Nobody looked for it in between.
  std::filesystem::remove(path);
  ASSERT_TRUE(Add("other", {"base"}).ok());
  EXPECT_EQ(ReadFile(path), "base");
  // One that was cut short.
  std::filesystem::resize_file(path, 2);
  Reopen();
  EXPECT_EQ(store_->Find("web").status().code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(Add("other", {"base"}).ok());
  EXPECT_EQ(ReadFile(path), "base");
  EXPECT_TRUE(store_->Find("web").ok());
}

TEST_F(ImageStoreTest, AnIdAndItsFirstDigitsStandForTheImage) {
  const auto image = Add("web", {"base"});
  ASSERT_TRUE(image.ok());
  const std::string digits = image->id.substr(7);
  for (const std::string& id :
       {image->id, digits, digits.substr(0, 12), "sha256:" + digits.substr(0, 13)}) {
    const auto found = store_->Find(id);
    ASSERT_TRUE(found.ok()) << id << ": " << found.status();
    EXPECT_EQ(*found, *image);
  }
  EXPECT_TRUE(absl::IsNotFound(store_->Find(digits.substr(0, 11)).status()));
  // A name comes first.
  const auto named = Add(digits.substr(0, 12), {"other"});
  ASSERT_TRUE(named.ok()) << named.status();
  EXPECT_EQ(*store_->Find(digits.substr(0, 12)), *named);
  // Of several names none is chosen.
  ASSERT_TRUE(Add("again", {"base"}).ok());
  const absl::Status several = Await(store_->Remove(image->id));
  EXPECT_EQ(several.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(several.message()), HasSubstr("again:latest, web:latest"));
  ASSERT_TRUE(Await(store_->Remove("again")).ok());
  ASSERT_TRUE(Await(store_->Remove(digits.substr(0, 20))).ok());
  EXPECT_THAT(*store_->List(), ElementsAre(*named));
}

TEST_F(ImageStoreTest, ALayerThatIsStillBeingWrittenIsNotTaken) {
  const auto folder = NewFolder();
  WriteFile(folder->path() + "/came", "layer");
  UniqueFd writer(::open((folder->path() + "/came").c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(writer.valid());
  const absl::Status refused = Await(store_->Adopt("s", DigestOf("layer"), "came", folder));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("still being written"));
  writer.Reset();
  EXPECT_TRUE(Await(store_->Adopt("s", DigestOf("layer"), "came", folder)).ok());
}

TEST_F(ImageStoreTest, UntilItIsStoredAnImageCanBeCalledOff) {
  const auto folder = NewFolder();
  WriteFile(folder->out_path() + "/l0", "base");
  layers::BuiltImage built;
  built.layers = {{"l0", DigestOf("0"), 1, 1}};
  // A disk that takes its time with the layers.
  std::promise<void> slow;
  folder->worker().Post([wait = slow.get_future().share()] { wait.wait(); });
  TaskScope scope(io_.get_executor());
  scope.Spawn([](ImageStore* store, layers::BuiltImage image,
                 std::shared_ptr<TempFolder> made) -> Task<void> {
    std::string name = "web";
    (void)co_await store->Add(std::move(name), std::move(image), std::move(made));
  }(store_.get(), built, folder));
  Settle();
  Await(scope.CancelAndJoin());
  slow.set_value();
  Await(folder->Remove());
  EXPECT_EQ(Count(), 0u);
  EXPECT_THAT(LayerFiles(), IsEmpty());
}

TEST_F(ImageStoreTest, NobodyGoesOnReadingALayerThatNobodyWaitsFor) {
  WriteFile(folder_.path() + "/layer", "layer");
  const StoreFiles files(images(), std::nullopt);
  NewLayer layer{folder_.path() + "/layer", "", 0};
  EXPECT_TRUE(absl::IsCancelled(files.Seal(&layer, std::atomic<bool>(true))));
  EXPECT_TRUE(files.Seal(&layer, std::atomic<bool>(false)).ok());
  EXPECT_EQ(layer.digest, DigestOf("layer"));
}

TEST_F(ImageStoreTest, ReadersMayReadLayersAndNothingElse) {
  store_.reset();
  ImageStore::Options options = StoreOptions();
  // As root another group than ours.
  options.readers = ::geteuid() == 0 ? 65534 : ::getegid();
  ASSERT_TRUE(Await(OpenWith(options)).ok());
  ASSERT_TRUE(Add("web", {"base"}).ok());
  struct stat info {};
  ASSERT_EQ(::stat(store_->PathOf(DigestOf("base")).c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0440u);
  EXPECT_EQ(info.st_gid, *options.readers);
  for (const char* folder : {"", "/layers"}) {
    ASSERT_EQ(::stat((images() + folder).c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0710u);
    EXPECT_EQ(info.st_gid, *options.readers);
  }
  for (const char* folder : {"/names", "/pins", "/tmp"}) {
    ASSERT_EQ(::stat((images() + folder).c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0700u);
  }
}

// A store that is not open, for the reason that is expected of it.
class UnopenedStoreTest : public ImagesTest {
 protected:
  void ExpectRefused(const std::string& reason, const std::string& words) {
    for (const absl::Status& refused :
         {store_->List().status(), store_->Find("web").status(),
          Await(store_->MakeTempFolder(std::nullopt)).status(), Await(store_->Remove("web")),
          Await(store_->Add("web", {}, temp_)).status(), Await(store_->Pin("c", "web")).status(),
          Await(store_->PinLayers("c", {})), Await(store_->Unpin("c")),
          Await(store_->Adopt("c", DigestOf("x"), "x", temp_)),
          Await(store_->Verify(DigestOf("base")))}) {
      EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable) << refused;
      EXPECT_THAT(std::string(refused.message()), HasSubstr(words));
      EXPECT_EQ(rpc::ReasonOf(refused), reason);
    }
  }

  const std::shared_ptr<TempFolder> temp_ = NewFolder();
};

TEST_F(UnopenedStoreTest, OneThatCouldNotBeOpenedSaysSo) {
  ASSERT_TRUE(Add("web", {"base"}).ok());
  store_.reset();
  std::filesystem::rename(images() + "/names", folder_.path() + "/aside");
  WriteFile(images() + "/names", "no folder");
  EXPECT_FALSE(Await(OpenWith(StoreOptions())).ok());
  ExpectRefused("images_unavailable", "/names");
  EXPECT_THAT(LayerFiles(), SizeIs(1));
}

TEST_F(UnopenedStoreTest, OneThatIsNotOpenYetSaysSo) {
  ASSERT_TRUE(Add("web", {"base"}).ok());
  store_ = std::make_unique<ImageStore>(io_.get_executor(), StoreOptions());
  ExpectRefused("images_opening", "still opening");
  EXPECT_TRUE(Await(store_->Open()).ok());
  EXPECT_TRUE(store_->Find("web").ok());
  EXPECT_THAT(LayerFiles(), SizeIs(1));
}

TEST(FolderListTest, AFolderIsListedWhollyOrNotAtAll) {
  const TestFolder folder;
  WriteFile(folder.path() + "/b", "");
  WriteFile(folder.path() + "/a", "");
  const auto names = ListFolder(folder.path());
  ASSERT_TRUE(names.ok()) << names.status();
  EXPECT_THAT(*names, ElementsAre("a", "b"));
  EXPECT_TRUE(absl::IsUnavailable(ListFolder(folder.path() + "/a").status()));
  EXPECT_TRUE(absl::IsUnavailable(ListFolder(folder.path() + "/absent").status()));
}

TEST_F(ImageStoreTest, ImportsAtTheSameTimeDoNotDisturbEachOther) {
  std::vector<Pending<absl::StatusOr<Image>>> adding;
  std::vector<std::shared_ptr<TempFolder>> folders;
  for (int i = 0; i < 4; ++i) {
    folders.push_back(NewFolder());
    WriteFile(folders.back()->out_path() + "/l0", "base");
    WriteFile(folders.back()->out_path() + "/l1", absl::StrCat("top", i % 2));
    layers::BuiltImage built;
    built.layers = {{"l0", DigestOf("0"), 1, 1}, {"l1", DigestOf("1"), 1, 1}};
    adding.push_back(Begin(store_->Add(absl::StrCat("i", i), built, folders.back())));
  }
  for (auto& pending : adding) {
    const auto image = Finish(pending);
    EXPECT_TRUE(image.ok()) << image.status();
  }
  Reopen();
  EXPECT_THAT(*store_->List(), SizeIs(4));
  EXPECT_THAT(LayerFiles(), SizeIs(3));
}

}  // namespace
}  // namespace ferry::vm
