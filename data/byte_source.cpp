// SPDX-License-Identifier: Apache-2.0
#include "data/byte_source.hpp"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.hpp"
#include "core/file.hpp"

namespace demist::data {
namespace {

constexpr std::size_t kChunk = 256u << 10;

std::string display_name(const fs::path& path) {
  return path == "-" ? "standard input" : path.string();
}

[[noreturn]] void damaged(const std::string& name, std::uint64_t at, const std::string& why) {
  throw DataError(name + ": damaged compressed stream before byte " + std::to_string(at) + ": " +
                  why + "; fetch or compress the file again");
}

enum class Form { undecided, text, gzip, zstd };

struct Magic {
  std::string_view bytes;
  unsigned first_mask;  // bits of the first byte that count
  Form form;
};
constexpr std::array<Magic, 3> kMagics = {{
    {"\x1f\x8b", 0xff, Form::gzip},
    {"\x28\xb5\x2f\xfd", 0xff, Form::zstd},
    {"\x50\x2a\x4d\x18", 0xf0, Form::zstd},  // zstd frames may begin with user data
}};

bool begins_alike(std::string_view first, const Magic& magic) {
  for (std::size_t i = 0; i < std::min(first.size(), magic.bytes.size()); ++i) {
    const unsigned difference = static_cast<unsigned char>(first[i] ^ magic.bytes[i]);
    if ((difference & (i == 0 ? magic.first_mask : 0xffu)) != 0) return false;
  }
  return true;
}

// Undecided: more bytes are needed to tell.
Form form_of(std::string_view first) {
  for (const Magic& magic : kMagics)
    if (begins_alike(first, magic))
      return first.size() < magic.bytes.size() ? Form::undecided : magic.form;
  return Form::text;
}

// The file as stored. Its first bytes can be looked at before they are read.
class StoredFile final : public ByteSource {
 public:
  StoredFile(const fs::path& path, std::uint64_t begin)
      : name_(display_name(path)),
        fd_(path == "-" ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) refuse_unread(name_, "open", errno);
    if (begin > 0 && ::lseek(fd_, static_cast<off_t>(begin), SEEK_SET) < 0) {
      const std::string why = std::strerror(errno);
      ::close(fd_);
      throw DataError(name_ + ": cannot seek: " + why);
    }
  }
  StoredFile(const StoredFile&) = delete;
  StoredFile& operator=(const StoredFile&) = delete;
  ~StoredFile() override {
    if (fd_ != STDIN_FILENO) ::close(fd_);
  }

  // Looks at no byte more than it needs: somebody who types waits for the answer to a short line.
  Form form() {
    char byte = 0;
    while (form_of(peeked_) == Form::undecided && read_raw({&byte, 1}) > 0) peeked_ += byte;
    return form_of(peeked_);
  }

  std::size_t read(std::span<char> out) override {
    const std::size_t early = peeked_.copy(out.data(), out.size());
    peeked_.erase(0, early);
    const std::size_t count = early > 0 ? early : read_raw(out);
    taken_ += count;
    return count;
  }
  std::uint64_t bytes_read() const override { return taken_; }
  const std::string& name() const { return name_; }

 private:
  std::size_t read_raw(std::span<char> out) const {
    for (;;) {
      const ssize_t count = ::read(fd_, out.data(), out.size());
      if (count >= 0) return static_cast<std::size_t>(count);
      if (errno != EINTR) refuse_unread(name_, "read", errno);
    }
  }

  std::string name_;
  int fd_;
  std::uint64_t taken_ = 0;
  std::string peeked_;
};

class GzipSource final : public ByteSource {
 public:
  explicit GzipSource(std::unique_ptr<StoredFile> file) : file_(std::move(file)), input_(kChunk) {
    constexpr int gzip_wrapper = 16;
    if (inflateInit2(&stream_, MAX_WBITS + gzip_wrapper) != Z_OK) throw std::bad_alloc();
  }
  GzipSource(const GzipSource&) = delete;
  GzipSource& operator=(const GzipSource&) = delete;
  ~GzipSource() override { inflateEnd(&stream_); }

  std::size_t read(std::span<char> out) override {
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = static_cast<uInt>(out.size());
    while (stream_.avail_out == out.size()) {
      if (!refill()) {
        if (inside_) damaged(file_->name(), file_->bytes_read(), "it ends too early");
        return 0;
      }
      if (!inside_ && skip_padding()) continue;
      if (!inside_) inflateReset(&stream_);  // another member follows
      inside_ = true;
      const int code = inflate(&stream_, Z_NO_FLUSH);
      if (code == Z_STREAM_END)
        inside_ = false;
      else if (code != Z_OK && code != Z_BUF_ERROR)
        damaged(file_->name(), file_->bytes_read(),
                stream_.msg != nullptr ? stream_.msg : "zlib error " + std::to_string(code));
    }
    return out.size() - stream_.avail_out;
  }
  std::uint64_t bytes_read() const override { return file_->bytes_read(); }

 private:
  bool refill() {
    if (stream_.avail_in > 0) return true;
    const std::size_t count = file_->read(input_);
    stream_.next_in = reinterpret_cast<Bytef*>(input_.data());
    stream_.avail_in = static_cast<uInt>(count);
    return count > 0;
  }

  // Tapes and tar fill a last block with zeros, and gzip takes them: zeros after a member are
  // skipped. Nothing else may follow them. True: the input at hand is used up.
  bool skip_padding() {
    padded_ = padded_ || *stream_.next_in == 0;
    if (!padded_) return false;
    while (stream_.avail_in > 0 && *stream_.next_in == 0) {
      ++stream_.next_in;
      --stream_.avail_in;
    }
    if (stream_.avail_in > 0)
      damaged(file_->name(), file_->bytes_read(), "something follows its padding of zeros");
    return true;
  }

  std::unique_ptr<StoredFile> file_;
  std::vector<char> input_;
  z_stream stream_{};
  bool inside_ = true;   // a member has begun and not ended
  bool padded_ = false;  // zeros have begun
};

class ZstdSource final : public ByteSource {
 public:
  explicit ZstdSource(std::unique_ptr<StoredFile> file)
      : file_(std::move(file)), input_(kChunk), stream_(ZSTD_createDStream()) {
    if (stream_ == nullptr) throw std::bad_alloc();
  }
  ZstdSource(const ZstdSource&) = delete;
  ZstdSource& operator=(const ZstdSource&) = delete;
  ~ZstdSource() override { ZSTD_freeDStream(stream_); }

  std::size_t read(std::span<char> out) override {
    ZSTD_outBuffer output{out.data(), out.size(), 0};
    while (output.pos == 0) {
      // A full output buffer may leave decoded bytes inside the stream: ask before reading on.
      const bool more = refill();
      const std::size_t before = pending_.pos;
      const std::size_t code = ZSTD_decompressStream(stream_, &output, &pending_);
      if (ZSTD_isError(code) != 0)
        damaged(file_->name(), file_->bytes_read(), ZSTD_getErrorName(code));
      if (pending_.pos > before || output.pos > 0) inside_ = code != 0;
      if (more || output.pos > 0) continue;
      if (inside_) damaged(file_->name(), file_->bytes_read(), "it ends too early");
      return 0;
    }
    return output.pos;
  }
  std::uint64_t bytes_read() const override { return file_->bytes_read(); }

 private:
  bool refill() {
    if (pending_.pos < pending_.size) return true;
    const std::size_t count = file_->read(input_);
    pending_ = {input_.data(), count, 0};
    return count > 0;
  }

  std::unique_ptr<StoredFile> file_;
  std::vector<char> input_;
  ZSTD_DStream* stream_;
  ZSTD_inBuffer pending_{nullptr, 0, 0};
  bool inside_ = true;  // a frame has begun and not ended
};

}  // namespace

std::unique_ptr<ByteSource> open_bytes(const fs::path& path, std::uint64_t begin) {
  auto file = std::make_unique<StoredFile>(path, begin);
  if (begin > 0) return file;
  switch (file->form()) {
    case Form::gzip:
      return std::make_unique<GzipSource>(std::move(file));
    case Form::zstd:
      return std::make_unique<ZstdSource>(std::move(file));
    case Form::undecided:
    case Form::text:
      break;
  }
  return file;
}

bool is_seekable_text(const fs::path& path) {
  std::error_code error;
  if (path == "-" || !fs::is_regular_file(path, error)) return false;
  const Form form = StoredFile(path, 0).form();
  return form == Form::text || form == Form::undecided;
}

}  // namespace demist::data
