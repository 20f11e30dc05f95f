#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tools/ferryctl/recover_command.h"

namespace ferry::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(RecoverText, WhatTheOtherHostSaysCannotSteerTheTerminal) {
  const std::string steering = "\x1b]0;title\x07\x1b[2J";
  v1::RecoverSessionResponse response;
  v1::SessionKnowledge* told = response.add_sides();
  told->set_origin(v1::MIGRATION_ORIGIN_SOURCE);
  told->set_address("host-a:1" + steering);
  told->set_next("waits" + steering);
  told->add_journal()->set_record("COMMIT" + steering);
  v1::SessionKnowledge* silent = response.add_sides();
  silent->set_address("host-b:1" + steering);
  silent->set_error("no route" + steering);
  response.set_risk("two copies" + steering);
  const std::string text = KnownText(response);
  for (const char* said : {"host-a:1", "waits", "COMMIT", "host-b:1", "no route", "two copies"}) {
    EXPECT_THAT(text, HasSubstr(said));
  }
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
  EXPECT_THAT(text, Not(HasSubstr("\x07")));
}

}  // namespace
}  // namespace ferry::ctl
