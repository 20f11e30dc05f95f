#include "bridge/network/dhcp_core.h"

#include <algorithm>
#include <utility>

namespace ferry::net {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kFirstBackoff{2'000};
constexpr milliseconds kLastBackoff{32'000};
constexpr uint32_t kJitterMs = 500;        // to either side
constexpr int kRequests = 4;               // before other offers are looked for: 30 s
constexpr int kConfirmations = 3;          // before nobody is taken to be there
constexpr seconds kConfirmationLimit{14};  // which these take
// How often a lease is asked for again at most (RFC 2131, 4.4.5).
constexpr seconds kRenewals{60};
// A server that gives less would be asked all the time.
constexpr uint32_t kShortestLease = 10;
constexpr uint32_t kShortestRenewal = 5;
constexpr uint32_t kForever = UINT32_MAX;
// A standstill that is shorter is none for whoever answers.
constexpr seconds kStandstill{1};

// Half of what is left until then, but not all the time.
DhcpCore::Time NextRenewal(DhcpCore::Time now, DhcpCore::Time until) {
  return now + std::max<DhcpCore::Duration>((until - now) / 2, kRenewals);
}

void BringNearer(DhcpCore::Time* when, DhcpCore::Duration by, DhcpCore::Time now) {
  if (*when == DhcpCore::Time::max() || *when <= now) return;
  *when = *when - now > by ? *when - by : now;
}

}  // namespace

DhcpCore::DhcpCore(const MacAddress& mac, std::function<uint32_t()> random)
    : mac_(mac), random_(std::move(random)) {}

void DhcpCore::Start(Time now) {
  began_ = now;
  Discover(now);
}

void DhcpCore::Discover(Time now) {
  if (lease_.has_value()) began_ = now;
  lease_.reset();
  Enter(State::kSelecting, now);
}

void DhcpCore::Enter(State state, Time now) {
  state_ = state;
  // To take an offer is the end of the talk that it came in.
  if (state != State::kRequesting) transaction_ = random_();
  asked_ = now;
  sent_ = 0;
  Send(now);
}

DhcpRequest DhcpCore::RequestNow(Time now) const {
  DhcpRequest request;
  request.type = state_ == State::kSelecting ? DhcpType::kDiscover : DhcpType::kRequest;
  request.transaction = transaction_;
  request.mac = mac_;
  const auto since = std::chrono::duration_cast<seconds>(now - began_).count();
  request.seconds = static_cast<uint16_t>(std::clamp<int64_t>(since, 0, UINT16_MAX));
  if (state_ == State::kRequesting) {
    request.wants = offer_.address.address;
    request.server = offer_.server;
  }
  if (state_ == State::kConfirming) request.wants = lease_->address.address;
  if (state_ == State::kRenewing || state_ == State::kRebinding) {
    request.has = lease_->address.address;
  }
  return request;
}

void DhcpCore::Send(Time now) {
  Packet packet;
  packet.bytes = EncodeDhcp(RequestNow(now));
  if (state_ == State::kRenewing) packet.to = lease_->server;
  packets_.push_back(std::move(packet));
  if (state_ == State::kRenewing) {
    next_ = NextRenewal(now, rebind_at_);
  } else if (state_ == State::kRebinding) {
    next_ = NextRenewal(now, ends_at_);
  } else {
    next_ = now + Backoff(sent_);
  }
  ++sent_;
}

DhcpCore::Duration DhcpCore::Backoff(int attempt) const {
  milliseconds wait = kFirstBackoff;
  for (int i = 0; i < attempt && wait < kLastBackoff; ++i) wait *= 2;
  return wait - milliseconds(kJitterMs) + milliseconds(random_() % (2 * kJitterMs + 1));
}

void DhcpCore::Take(std::string_view datagram, Time now) {
  const absl::StatusOr<DhcpReply> reply = DecodeDhcp(datagram);
  if (!reply.ok() || reply->transaction != transaction_ || reply->mac != mac_) return;
  if (state_ == State::kSelecting) {
    // Some say only with the address how long it can be had.
    const bool usable = reply->address.length > 0 && reply->server.has_value() &&
                        reply->lease_seconds.value_or(kShortestLease) >= kShortestLease;
    if (reply->type != DhcpType::kOffer || !usable) return;
    offer_ = *reply;
    return Enter(State::kRequesting, now);
  }
  if (!Answers(*reply)) return;
  if (reply->type == DhcpType::kNak) return Refused(now);
  Bind(*reply, now);
}

// Whether it settles what was asked for.
bool DhcpCore::Answers(const DhcpReply& reply) const {
  if (state_ == State::kWaiting || state_ == State::kBound || state_ == State::kSelecting) {
    return false;
  }
  const bool requesting = state_ == State::kRequesting;
  // Others than the one whose offer was taken have no say in it.
  if (requesting && reply.server != offer_.server) return false;
  if (reply.type == DhcpType::kNak) return true;
  const IpAddress& asked = requesting ? offer_.address.address : lease_->address.address;
  return reply.type == DhcpType::kAck && reply.address.length > 0 &&
         reply.address.address == asked && reply.lease_seconds.value_or(0) >= kShortestLease;
}

void DhcpCore::Bind(const DhcpReply& reply, Time now) {
  DhcpLease lease;
  lease.address = reply.address;
  // One that does not say who it is has answered for the one that is known.
  lease.server = reply.server.value_or(lease_.has_value() ? lease_->server : IpAddress());
  lease.router = reply.router;
  lease.name_servers = reply.name_servers;
  lease.domain = reply.domain;
  lease_ = std::move(lease);
  SetTimes(reply);
  refusals_ = 0;
  state_ = State::kBound;
  OnBoundTime(now);
}

void DhcpCore::SetTimes(const DhcpReply& reply) {
  const uint32_t all = *reply.lease_seconds;
  renew_at_ = rebind_at_ = ends_at_ = Time::max();
  if (all == kForever) return;
  uint32_t renew = all / 2;
  uint32_t rebind = all - all / 8;
  const uint32_t said_renew = reply.renew_seconds.value_or(renew);
  const uint32_t said_rebind = reply.rebind_seconds.value_or(rebind);
  if (said_renew >= kShortestRenewal && said_renew < said_rebind && said_rebind < all) {
    renew = said_renew;
    rebind = said_rebind;
  }
  renew_at_ = asked_ + seconds(renew);
  rebind_at_ = asked_ + seconds(rebind);
  ends_at_ = asked_ + seconds(all);
}

void DhcpCore::Refused(Time now) {
  if (refusals_++ == 0) return Discover(now);
  if (lease_.has_value()) began_ = now;
  lease_.reset();
  state_ = State::kWaiting;
  next_ = now + Backoff(refusals_ - 2);
}

void DhcpCore::OnBoundTime(Time now) {
  if (now >= ends_at_) return Discover(now);
  if (state_ != State::kRebinding && now >= rebind_at_) {
    began_ = now;
    return Enter(State::kRebinding, now);
  }
  if (state_ == State::kBound && now >= renew_at_) {
    began_ = now;
    return Enter(State::kRenewing, now);
  }
  if (state_ != State::kBound && now >= next_) Send(now);
}

void DhcpCore::OnNoConfirmation(Time now) {
  state_ = State::kBound;
  OnBoundTime(now);
}

void DhcpCore::OnTime(Time now) {
  if (now < wake_at()) return;
  switch (state_) {
    case State::kWaiting:
      return Discover(now);
    case State::kSelecting:
      return Send(now);
    case State::kRequesting:
      return sent_ < kRequests ? Send(now) : Discover(now);
    case State::kConfirming:
      return sent_ < kConfirmations ? Send(now) : OnNoConfirmation(now);
    case State::kBound:
    case State::kRenewing:
    case State::kRebinding:
      return OnBoundTime(now);
  }
}

DhcpCore::Time DhcpCore::wake_at() const {
  if (state_ == State::kBound) return renew_at_;
  if (state_ == State::kRenewing) return std::min(next_, rebind_at_);
  if (state_ == State::kRebinding) return std::min(next_, ends_at_);
  return next_;
}

void DhcpCore::Confirm(Time now) {
  refusals_ = 0;
  if (!lease_.has_value()) return Discover(now);
  // Whoever begins anew all the time would never find that nobody answers.
  if (state_ != State::kConfirming) confirms_since_ = now;
  if (now >= ends_at_ && now - confirms_since_ >= kConfirmationLimit) return OnNoConfirmation(now);
  began_ = now;
  Enter(State::kConfirming, now);
}

void DhcpCore::StoodStill(Duration duration, Time now) {
  if (duration <= Duration::zero()) return;
  for (Time* when : {&renew_at_, &rebind_at_, &ends_at_}) BringNearer(when, duration, now);
  if (duration < kStandstill) return;
  // An answer that was on its way would count from before, and a lease that has ended meanwhile is
  // perhaps nobody else's yet.
  if (state_ != State::kBound || now >= ends_at_) Confirm(now);
}

std::vector<DhcpCore::Packet> DhcpCore::TakePackets() { return std::exchange(packets_, {}); }

}  // namespace ferry::net
