// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/machine_link.hpp"

#include <ifaddrs.h>
#include <net/if.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <utility>

#include "core/error.hpp"

// Boost 1.74 uses std::exchange and leaves its header to others.
#include <boost/asio.hpp>

namespace demist {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr auto kSendPeriod = std::chrono::milliseconds(500);
constexpr auto kLongestLeave = std::chrono::seconds(1);
constexpr std::uint32_t kLongestLetter = 1 << 20;  // bytes; the ranks of a machine are few

// Letters over one connection: four bytes that say how long it is, the most significant first, then
// the letter. Lives as long as something is under way.
class Line : public std::enable_shared_from_this<Line> {
 public:
  using Heard = std::function<void(const MachineLetter&)>;

  explicit Line(tcp::socket socket) : socket_(std::move(socket)) {}
  // `heard`: each letter; `ended`: nothing will come any more.
  void open(Heard heard, std::function<void()> ended) {
    heard_ = std::move(heard);
    ended_ = std::move(ended);
    error_code ignored;
    socket_.set_option(tcp::no_delay(true), ignored);
    read();
  }
  tcp::socket& socket() { return socket_; }
  bool is_sending() const { return sending_; }
  // What cannot go at once does not go: the next letter says more.
  void send(const MachineLetter& letter) {
    if (sending_ || !socket_.is_open()) return;
    const std::string bytes = encode(letter);
    const auto size = static_cast<std::uint32_t>(bytes.size());
    out_.clear();
    for (int shift = 24; shift >= 0; shift -= 8) out_ += static_cast<char>((size >> shift) & 0xff);
    out_ += bytes;
    sending_ = true;
    asio::async_write(socket_, asio::buffer(out_),
                      [self = shared_from_this()](const error_code& error, std::size_t) {
                        self->sending_ = false;
                        if (error) self->end();
                      });
  }
  void close() {
    heard_ = nullptr;
    ended_ = nullptr;
    error_code ignored;
    socket_.close(ignored);
  }

 private:
  void read() {
    asio::async_read(socket_, asio::buffer(head_),
                     [self = shared_from_this()](const error_code& error, std::size_t) {
                       if (error) return self->end();
                       std::uint32_t size = 0;
                       for (const unsigned char byte : self->head_) size = size << 8 | byte;
                       if (size > kLongestLetter) return self->end();
                       self->in_.resize(size);
                       self->read_letter();
                     });
  }
  void read_letter() {
    asio::async_read(socket_, asio::buffer(in_),
                     [self = shared_from_this()](const error_code& error, std::size_t) {
                       if (error) return self->end();
                       try {
                         const Heard heard = self->heard_;  // it may close the line
                         if (heard) heard(decode_machine_letter(self->in_));
                       } catch (const EnvironmentError&) {
                         return self->end();  // a stranger
                       }
                       if (self->socket_.is_open()) self->read();
                     });
  }
  void end() {
    const auto ended = std::exchange(ended_, nullptr);
    close();
    if (ended) ended();
  }

  tcp::socket socket_;
  std::array<unsigned char, 4> head_{};
  std::string in_, out_;
  bool sending_ = false;
  Heard heard_;
  std::function<void()> ended_;
};
using LinePtr = std::shared_ptr<Line>;

// What both sides have.
class LinkState {
 public:
  LinkState(std::string shared_token, int number, std::string host)
      : token(std::move(shared_token)), number_(number), host_(std::move(host)) {}

  void poll() {
    io.restart();  // it stops whenever it has nothing to wait for
    io.poll();
  }
  bool is_due() {
    if (Clock::now() < next_) return false;
    next_ = Clock::now() + kSendPeriod;
    return true;
  }
  MachineLetter letter(const std::vector<Pulse>& mine, bool leaving = false) const {
    return {token, number_, host_, mine, leaving};
  }
  void take(const MachineLetter& letter) {
    if (letter.leaving)
      others.erase(letter.machine);
    else if (!letter.pulses.empty())
      others[letter.machine] = {letter.host, letter.pulses};
  }
  void lose(int machine) {
    const auto other = others.find(machine);
    if (other == others.end()) return;
    for (Pulse& pulse : other->second.pulses) pulse.alive = false;
  }
  // Says good-bye once what is under way has left.
  void leave(const std::vector<LinePtr>& lines) {
    const auto until = Clock::now() + kLongestLeave;
    const auto wait = [&] {
      for (bool busy = true; busy && Clock::now() < until;) {
        poll();
        busy = std::ranges::any_of(lines, [](const LinePtr& line) { return line->is_sending(); });
        if (busy) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    };
    wait();
    for (const LinePtr& line : lines) line->send(letter({}, true));
    wait();
  }

  asio::io_context io;
  const std::string token;
  std::map<int, OtherMachine> others;

 private:
  const int number_;
  const std::string host_;
  Clock::time_point next_;
};

std::string make_token() {
  std::random_device device;
  std::string token;
  for (int i = 0; i < 4; ++i) {
    std::array<char, 9> word{};
    std::snprintf(word.data(), word.size(), "%08x", device());
    token += word.data();
  }
  return token;
}

// Of all interfaces that are up; link-local ones need more than a number to be reached.
std::vector<std::string> own_addresses() {
  std::vector<std::string> found;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return found;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || (entry->ifa_flags & IFF_UP) == 0) continue;
    const bool v4 = entry->ifa_addr->sa_family == AF_INET;
    if (!v4 && entry->ifa_addr->sa_family != AF_INET6) continue;
    tcp::endpoint endpoint;
    std::memcpy(endpoint.data(), entry->ifa_addr, v4 ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    const asio::ip::address address = endpoint.address();
    if (address.is_v6() && address.to_v6().is_link_local()) continue;
    found.push_back(address.to_string());
  }
  ::freeifaddrs(list);
  return found;
}

tcp::acceptor open_acceptor(asio::io_context& io) {
  error_code error;
  for (const tcp& protocol : {tcp::v6(), tcp::v4()}) {  // v6 hears v4 as well
    tcp::acceptor acceptor(io);
    acceptor.open(protocol, error);
    if (!error && protocol == tcp::v6()) acceptor.set_option(asio::ip::v6_only(false), error);
    if (!error) acceptor.bind(tcp::endpoint(protocol, 0), error);
    if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
    if (!error) return acceptor;
  }
  throw EnvironmentError("no port to hear other machines at: " + error.message());
}

class Listener : public ListeningLink {
 public:
  explicit Listener(const std::string& host)
      : state_(make_token(), 0, host), acceptor_(open_acceptor(state_.io)) {
    point_ = {state_.token, own_addresses(), acceptor_.local_endpoint().port()};
    accept();
  }
  ~Listener() override { close(); }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  const MeetingPoint& meeting_point() const override { return point_; }
  const std::map<int, OtherMachine>& others() const override { return state_.others; }
  void exchange(const std::vector<Pulse>& mine) override {
    state_.poll();
    const auto first = lines_.find(1);
    if (first == lines_.end() || !state_.is_due()) return;
    first->second->send(state_.letter(mine));
    state_.poll();
  }
  void leave() override {
    std::vector<LinePtr> lines;
    if (const auto first = lines_.find(1); first != lines_.end()) lines.push_back(first->second);
    state_.leave(lines);
    close();
  }

 private:
  void accept() {
    acceptor_.async_accept([this](const error_code& error, tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (!error) welcome(std::make_shared<Line>(std::move(socket)));
      accept();
    });
  }
  // A machine calls at several addresses and stays on one line, where it sends pulses.
  void welcome(const LinePtr& line) {
    callers_.push_back(line);
    std::erase_if(callers_, [](const LinePtr& old) { return !old->socket().is_open(); });
    const std::weak_ptr<Line> weak = line;
    const auto machine = std::make_shared<int>(0);
    line->open(
        [this, weak, machine](const MachineLetter& letter) {
          const LinePtr self = weak.lock();
          if (letter.token != state_.token || letter.machine < 1) return self->close();
          if (letter.pulses.empty() && !letter.leaving) return self->send(state_.letter({}));
          *machine = letter.machine;
          lines_[letter.machine] = self;
          state_.take(letter);
        },
        [this, machine] {
          lines_.erase(*machine);
          state_.lose(*machine);
        });
  }
  void close() {
    error_code ignored;
    acceptor_.close(ignored);
    for (const LinePtr& line : callers_) line->close();
    callers_.clear();
    lines_.clear();
    state_.poll();  // what was under way ends
  }

  LinkState state_;
  tcp::acceptor acceptor_;
  MeetingPoint point_;
  std::vector<LinePtr> callers_;
  std::map<int, LinePtr> lines_;
};

class Caller : public MachineLink {
 public:
  Caller(const MeetingPoint& point, int number, const std::string& host)
      : state_(point.token, number, host) {
    for (const std::string& address : point.addresses) call(address, point.port);
  }
  ~Caller() override { close(); }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

  const std::map<int, OtherMachine>& others() const override { return state_.others; }
  void exchange(const std::vector<Pulse>& mine) override {
    state_.poll();
    if (!chosen_ || !state_.is_due()) return;
    chosen_->send(state_.letter(mine));
    state_.poll();
  }
  void leave() override {
    if (chosen_) state_.leave({chosen_});
    close();
  }

 private:
  void call(const std::string& address, std::uint16_t port) {
    error_code error;
    const tcp::endpoint to(asio::ip::make_address(address, error), port);
    if (error) return;
    const auto line = std::make_shared<Line>(tcp::socket(state_.io));
    lines_.push_back(line);
    line->socket().async_connect(to, [this, line](const error_code& failed) {
      if (failed || chosen_) return line->close();
      const std::weak_ptr<Line> weak = line;
      line->open([this, weak](const MachineLetter& letter) { hear(weak.lock(), letter); },
                 [this, weak] {
                   if (chosen_ == weak.lock()) state_.lose(0);
                 });
      line->send(state_.letter({}));
    });
  }
  void hear(const LinePtr& line, const MachineLetter& letter) {
    if (letter.token != state_.token || letter.machine != 0) return line->close();
    if (!chosen_) {
      chosen_ = line;
      for (const LinePtr& other : lines_)
        if (other != line) other->close();
      lines_ = {line};
    }
    state_.take(letter);
  }
  void close() {
    for (const LinePtr& line : lines_) line->close();
    state_.poll();
  }

  LinkState state_;
  std::vector<LinePtr> lines_;
  LinePtr chosen_;
};

}  // namespace

std::unique_ptr<ListeningLink> listen_to_machines(const std::string& host) {
  return std::make_unique<Listener>(host);
}

std::unique_ptr<MachineLink> call_first_machine(const MeetingPoint& point, int number,
                                                const std::string& host) {
  return std::make_unique<Caller>(point, number, host);
}

}  // namespace demist
