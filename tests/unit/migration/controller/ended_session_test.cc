#include <malloc.h>

#include "tests/unit/migration/controller/driven_fixture.h"

#ifdef __SANITIZE_ADDRESS__
// GCC has the function, and not the header that declares it.
extern "C" size_t __sanitizer_get_current_allocated_bytes();
#endif

// What a session holds once it is over. The daemon remembers many of them.
namespace ferry::migration {
namespace {

class EndedSessionTest : public DrivenTest {
 protected:
  static size_t BytesInUse() {
#ifdef __SANITIZE_ADDRESS__
    return __sanitizer_get_current_allocated_bytes();
#else
    const struct mallinfo2 info = ::mallinfo2();
    return info.uordblks + info.hblkhd;
#endif
  }

  // How much goes when the whole sessions become mere records.
  size_t HeldBy(MigrationHost& host, const std::vector<std::string>& ids) {
    Settle();
    const size_t before = BytesInUse();
    for (const std::string& id : ids) EXPECT_TRUE(Cleanup(host, id).ok());
    Settle();
    const size_t after = BytesInUse();
    return after < before ? (before - after) / ids.size() : 0;
  }
};

TEST_F(EndedSessionTest, IsSmall) {
  // Its own fields, its events and what it says of itself; a copy of the plan alone is 2 KiB.
  constexpr size_t kSmall = 8 * 1024;
  std::vector<std::string> ids;
  for (int i = 0; i < 8; ++i) {
    const std::string& id = ids.emplace_back(absl::StrCat("s", i));
    Boot(id);
    TransferBoth(id, id);
    ASSERT_TRUE(Resume(b_, id, *Stop(a_, id)).ok());
    EXPECT_EQ(Wait(a_, id).outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
    EXPECT_TRUE(Describe(b_, id).done());
  }
  const size_t source = HeldBy(a_, ids);
  const size_t destination = HeldBy(b_, ids);
  RecordProperty("source", static_cast<int>(source));
  RecordProperty("destination", static_cast<int>(destination));
  EXPECT_GT(source, 0u);
  EXPECT_GT(destination, 0u);
  EXPECT_LT(source, kSmall);
  EXPECT_LT(destination, kSmall);
}

TEST_F(EndedSessionTest, DoesNotHoldTheVmThatMoved) {
  std::weak_ptr<vm::UtilityVm> vm = Boot();
  const std::string id = Migrate();
  Wait(a_, id);
  EXPECT_TRUE(a_.sessions->Find(id).ok()) << "it is whole still";
  EXPECT_TRUE(vm.expired());
}

TEST_F(EndedSessionTest, DoesNotHoldTheVmThatMovedOn) {
  Boot();
  TransferBoth("s1");
  auto go = Stop(a_, "s1");
  ASSERT_TRUE(go.ok()) << go.status();
  ASSERT_TRUE(Resume(b_, "s1", *go).ok());
  Wait(a_, "s1");
  std::weak_ptr<vm::UtilityVm> moved = *b_.host.inventory->Find("web");
  auto back = Await(b_.sessions->Migrate(MigrateRequest("web", "host-a:1")));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(Wait(b_, back->session_id()).outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
  EXPECT_TRUE(b_.sessions->Find("s1").ok()) << "it is whole still";
  EXPECT_TRUE(moved.expired());
  EXPECT_TRUE(a_.host.inventory->Find("web").ok());
}

TEST_F(EndedSessionTest, AnswersAsBefore) {
  Boot();
  TransferBoth("s1");
  auto go = Stop(a_, "s1");
  ASSERT_TRUE(go.ok()) << go.status();
  auto done = Resume(b_, "s1", *go);
  ASSERT_TRUE(done.ok()) << done.status();
  Wait(a_, "s1");
  EXPECT_EQ(*Stop(a_, "s1"), *go);
  EXPECT_EQ(*Stop(a_, "s1", *done), *go);
  EXPECT_EQ(*Resume(b_, "s1", *go), *done);
  EXPECT_THAT(Resume(a_, "s1").status().message(), HasSubstr("runs at host-b:1"));
  EXPECT_FALSE(Cancel(a_, "s1").ok());
  EXPECT_EQ(Export("s1").status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Await(Session(a_, "s1")->AdoptSocket("x")).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(Notifications(a_, "s1").empty());
}

}  // namespace
}  // namespace ferry::migration
