#include "tests/unit/migration/commit/commit_model.h"

#include <unordered_map>
#include <unordered_set>

namespace ferry::migration::model {
namespace {

// Puts numbers into a word and takes them out again, in the same order.
class Packer {
 public:
  explicit Packer(uint64_t word = 0) : word_(word) {}
  template <typename T>
  void Put(T value, int bits) {
    word_ |= static_cast<uint64_t>(value) << at_;
    at_ += bits;
  }
  template <typename T>
  void Take(T& value, int bits) {
    value = static_cast<T>(word_ >> at_ & ((uint64_t{1} << bits) - 1));
    at_ += bits;
  }
  uint64_t word() const { return word_; }

 private:
  uint64_t word_;
  int at_ = 0;
};

template <typename World, typename Visit>
void ForSessions(World& world, const Visit& visit) {
  for (auto& session : world.sessions) {
    visit(session.begun, 1);
    visit(session.source_host, 1);
    visit(session.source_copy, 1);
    visit(session.source_record, 3);
    visit(session.destination_record, 3);
    visit(session.source_effect, 1);
    visit(session.destination_effect, 1);
    visit(session.source_knows, 2);
    visit(session.source_damaged, 1);
    visit(session.source_in_doubt, 1);
    visit(session.destination_damaged, 1);
    visit(session.stream, 2);
    visit(session.mirror, 3);
    visit(session.messages, 7);
  }
}

template <typename World, typename Visit>
void ForRest(World& world, const Visit& visit) {
  for (auto& copy : world.copies) visit(copy, 3);
  visit(world.own_disks, 1);
  for (auto& whole : world.whole) visit(whole, 1);
  for (auto& up : world.up) visit(up, 1);
}

template <typename World, typename Visit>
void ForSpent(World& world, const Visit& visit) {
  for (auto& crashes : world.crashes) visit(crashes, 2);
  visit(world.lost, 2);
  visit(world.doubled, 2);
  visit(world.damaged, 1);
  visit(world.restored, 1);
}

// Whether whoever spent `a` could still do all that whoever spent `b` can.
bool NoMoreThan(uint16_t a, uint16_t b) {
  const World less = Unpack({}, a);
  const World more = Unpack({}, b);
  return less.crashes[0] <= more.crashes[0] && less.crashes[1] <= more.crashes[1] &&
         less.lost <= more.lost && less.doubled <= more.doubled && less.damaged <= more.damaged &&
         less.restored <= more.restored;
}

struct HashOfSituation {
  size_t operator()(const Situation& situation) const {
    return situation.sessions * 0x9E3779B97F4A7C15 ^ situation.rest;
  }
};

// All worlds found so far, how each was reached, and which lead where without a fault. Worlds with
// few faults come first, so that a situation seen before is rarely looked at again.
class Search {
 public:
  Search(const Faults& faults, Mistake mistake) : faults_(faults), mistake_(mistake) {}

  Verdict Run(const World& beginning) {
    Visit(beginning, 0, false);
    for (size_t faults = 0; faults < waiting_.size(); ++faults) {
      for (size_t i = 0; i < waiting_[faults].size(); ++i) {
        const uint32_t at = waiting_[faults][i];
        const World world = Unpack(nodes_[at].situation, nodes_[at].spent);
        if (std::string wrong = BrokenInvariant(world); !wrong.empty()) return Found(wrong, at);
        for (const Step& step : Successors(world, faults_, mistake_)) {
          Visit(step.world, at, step.fault);
        }
      }
    }
    return CheckSettles();
  }

 private:
  struct Node {
    Situation situation;
    uint32_t from = 0;
    uint16_t spent = 0;
  };
  // A situation, by the faults that were spent to get there.
  struct Seen {
    uint32_t first = 0;
    std::vector<uint16_t> spent;
    std::vector<uint32_t> calmly_from;
  };

  void Visit(const World& world, uint32_t from, bool fault) {
    const Situation situation = SituationOf(world);
    const uint16_t spent = Spent(world);
    Seen& seen = seen_[situation];
    if (!fault && !nodes_.empty()) seen.calmly_from.push_back(from);
    for (const uint16_t known : seen.spent) {
      if (NoMoreThan(known, spent)) return;
    }
    const auto at = static_cast<uint32_t>(nodes_.size());
    if (seen.spent.empty()) seen.first = at;
    seen.spent.push_back(spent);
    nodes_.push_back({situation, from, spent});
    const size_t faults = world.crashes[0] + world.crashes[1] + world.lost + world.doubled +
                          world.damaged + world.restored;
    if (waiting_.size() <= faults) waiting_.resize(faults + 1);
    waiting_[faults].push_back(at);
  }

  // Backwards from the settled worlds: what is not reached can never be settled. The faults that
  // were spent do not matter once nothing fails any more.
  Verdict CheckSettles() {
    std::unordered_set<Situation, HashOfSituation> settles;
    std::vector<Situation> todo;
    for (const auto& [situation, seen] : seen_) {
      if (!IsSettled(Unpack(situation, 0))) continue;
      settles.insert(situation);
      todo.push_back(situation);
    }
    while (!todo.empty()) {
      const Situation at = todo.back();
      todo.pop_back();
      for (const uint32_t before : seen_[at].calmly_from) {
        const Situation& situation = nodes_[before].situation;
        if (settles.insert(situation).second) todo.push_back(situation);
      }
    }
    for (const auto& [situation, seen] : seen_) {
      if (!settles.contains(situation)) return Found("this can never be settled", seen.first);
    }
    return {"", {}, nodes_.size()};
  }

  Verdict Found(const std::string& violation, uint32_t at) const {
    Verdict verdict{violation, {}, nodes_.size()};
    for (; at != 0; at = nodes_[at].from) {
      const Node& node = nodes_[at];
      const Node& before = nodes_[node.from];
      for (const Step& step :
           Successors(Unpack(before.situation, before.spent), faults_, mistake_)) {
        if (!(step.world == Unpack(node.situation, node.spent))) continue;
        verdict.trace.insert(verdict.trace.begin(), step.label.Text());
        break;
      }
    }
    return verdict;
  }

  const Faults faults_;
  const Mistake mistake_;
  std::vector<Node> nodes_;
  std::vector<std::vector<uint32_t>> waiting_;
  std::unordered_map<Situation, Seen, HashOfSituation> seen_;
};

}  // namespace

Situation SituationOf(const World& world) {
  Packer sessions;
  ForSessions(world, [&](const auto& value, int bits) { sessions.Put(value, bits); });
  Packer rest;
  ForRest(world, [&](const auto& value, int bits) { rest.Put(value, bits); });
  return {sessions.word(), rest.word()};
}

uint16_t Spent(const World& world) {
  Packer packer;
  ForSpent(world, [&](const auto& value, int bits) { packer.Put(value, bits); });
  return static_cast<uint16_t>(packer.word());
}

World Unpack(const Situation& situation, uint16_t spent) {
  World world;
  Packer sessions(situation.sessions);
  ForSessions(world, [&](auto& value, int bits) { sessions.Take(value, bits); });
  Packer rest(situation.rest);
  ForRest(world, [&](auto& value, int bits) { rest.Take(value, bits); });
  Packer faults(spent);
  ForSpent(world, [&](auto& value, int bits) { faults.Take(value, bits); });
  return world;
}

Verdict Check(const Faults& faults, Mistake mistake, Disks disks) {
  return Search(faults, mistake).Run(Beginning(disks));
}

}  // namespace ferry::migration::model
