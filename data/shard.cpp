// SPDX-License-Identifier: Apache-2.0
#include "data/shard.hpp"

#include <fcntl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <optional>

#include "core/checksum.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "core/h5.hpp"
#include "data/shard_format.hpp"
#include "data/tokenizer.hpp"

namespace demist::data {
namespace {

using shard_format::Metadata;

// On network file systems a lost server or a truncated file turns a mapped read into SIGBUS.
bool is_network_file_system(const fs::path& path) {
  constexpr std::uint32_t nfs = 0x6969, lustre = 0x0BD00BD0;
  struct statfs info {};
  if (::statfs(path.c_str(), &info) != 0) return false;
  const auto type = static_cast<std::uint32_t>(info.f_type);
  return type == nfs || type == lustre;
}

// The bytes of one file from `offset` on, mapped or read on demand.
class TokenBytes {
 public:
  TokenBytes(const fs::path& path, ShardIo io, std::uint64_t offset)
      : path_(path), offset_(offset) {
    if (io == ShardIo::automatic)
      io = is_network_file_system(path) ? ShardIo::pread : ShardIo::mmap;
    if (io == ShardIo::mmap) {
      map_.emplace(path);
      return;
    }
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) refuse_unread(path, "open", errno);
  }
  TokenBytes(const TokenBytes&) = delete;
  TokenBytes& operator=(const TokenBytes&) = delete;
  ~TokenBytes() {
    if (fd_ >= 0) ::close(fd_);
  }

  // `scratch` holds the bytes when the file is not mapped.
  std::span<const std::byte> get(std::uint64_t begin, std::uint64_t count,
                                 std::vector<std::byte>& scratch) const {
    if (map_) return map_->bytes().subspan(offset_ + begin, count);
    scratch.resize(count);
    for (std::uint64_t done = 0; done < count;) {
      const ssize_t got = ::pread(fd_, scratch.data() + done, count - done,
                                  static_cast<off_t>(offset_ + begin + done));
      if (got < 0 && errno == EINTR) continue;
      const std::string what = "read bytes " + std::to_string(begin + done) + " to " +
                               std::to_string(begin + count - 1) + " of /tokens";
      if (got < 0) refuse_unread(path_, what, errno);
      if (got == 0)
        throw DataError(path_.string() + ": cannot " + what + ": the file has become shorter");
      done += static_cast<std::uint64_t>(got);
    }
    return scratch;
  }

  void prefetch(std::uint64_t begin, std::uint64_t count) const {
    if (map_)
      map_->prefetch(offset_ + begin, count);
    else  // advice only
      (void)::posix_fadvise(fd_, static_cast<off_t>(offset_ + begin), static_cast<off_t>(count),
                            POSIX_FADV_WILLNEED);
  }

 private:
  fs::path path_;
  std::uint64_t offset_;
  std::optional<MappedFile> map_;
  int fd_ = -1;
};

template <class Stored>
void widen(std::span<const std::byte> bytes, std::int32_t* out) {
  for (std::size_t i = 0; i < bytes.size() / sizeof(Stored); ++i) {
    Stored value;  // small datasets may lie at any byte
    std::memcpy(&value, bytes.data() + i * sizeof(Stored), sizeof(Stored));
    out[i] = static_cast<std::int32_t>(value);
  }
}

std::vector<std::string> split(const std::string& names) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= names.size();) {
    const std::size_t end = std::min(names.find(',', begin), names.size());
    parts.push_back(names.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

[[noreturn]] void damaged(const fs::path& path, const std::string& what) {
  throw DataError(path.string() + ": " + what + "; restore the file, or delete " +
                  path.parent_path().string() + " and build the corpus again");
}

void require_format(const h5::File& file, const fs::path& path) {
  if (!file.has_attribute("/", "format") ||
      file.string_attribute("/", "format") != shard_format::kFormat)
    throw DataError(
        path.string() +
        ": not a token shard (no format = demist.tokens); name a file that `demist corpus "
        "build` made");
  const std::uint64_t version = file.uint_attribute("/", "version");
  if (version != shard_format::kVersion)
    throw DataError(path.string() + ": token shard version " + std::to_string(version) +
                    "; this program reads version 1: use the demist that made it");
  if (!file.has_attribute("/", "closed")) damaged(path, "its writer did not finish");
}

ShardHeader read_header(const h5::File& file) {
  const auto number = [&](const char* name) { return file.uint_attribute("/", name); };
  ShardHeader header;
  header.tokenizer_hash = file.string_attribute("/", "tokenizer_sha256");
  header.vocab_size = static_cast<std::int64_t>(number("vocab_size"));
  header.corpus_name = file.string_attribute("/", "corpus_name");
  header.source = file.string_attribute("/", "source");
  header.shard_index = number("shard_index");
  header.part = number("part");
  header.languages = split(file.string_attribute("/", "languages"));
  header.n_tokens = number("n_tokens");
  header.n_documents = number("n_docs");
  return header;
}

void require_consistent(const fs::path& path, const ShardHeader& header, const Metadata& metadata) {
  const auto& offsets = metadata.document_offsets;
  const std::uint64_t documents = header.n_documents;
  if (documents == 0 || offsets.size() != documents + 1 || offsets.front() != 0 ||
      offsets.back() != header.n_tokens ||
      std::ranges::adjacent_find(offsets, std::ranges::greater_equal()) != offsets.end())
    damaged(path, "/doc_offsets does not rise from 0 to the number of tokens");
  const std::size_t languages = header.languages.size();
  if (metadata.document_language.size() != documents || header.language_tokens.size() != languages)
    damaged(path, "/doc_lang or /language_tokens has the wrong length");
  if (std::ranges::any_of(metadata.document_language,
                          [&](std::uint8_t language) { return language >= languages; }))
    damaged(path, "/doc_lang names a language that is not in the list");
  std::vector<std::uint64_t> counts(languages);
  for (std::size_t d = 0; d < documents; ++d)
    counts[metadata.document_language[d]] += offsets[d + 1] - offsets[d];
  if (counts != metadata.language_tokens)
    damaged(path, "/language_tokens differs from the sums over the documents");
  const std::size_t sources = metadata.document_source.size();
  if (sources != 0 && sources != documents) damaged(path, "/doc_source has the wrong length");
}

void require_checksums(const fs::path& path, const Metadata& metadata,
                       const std::vector<std::uint64_t>& stored) {
  const std::vector<std::uint64_t> actual = shard_format::checksums_of(metadata);
  if (stored.size() != actual.size()) damaged(path, "/meta_xxh3 has the wrong length");
  for (std::size_t i = 0; i < actual.size(); ++i)
    if (stored[i] != actual[i])
      damaged(path, std::string("the checksum of ") + shard_format::kMetaNames[i] + " is wrong");
}

}  // namespace

struct Shard::Impl {
  fs::path path;
  ShardHeader header;
  std::string hash;
  Metadata metadata;
  std::uint64_t width = 2;  // bytes a token
  std::optional<TokenBytes> bytes;
  std::unique_ptr<std::atomic<bool>[]> verified;  // [blocks]

  void open(ShardIo io);
  void read_metadata(const h5::File& file);
  void verify_block(std::uint64_t block) const;
  void copy(std::span<const std::byte> from, std::int32_t* to) const {
    width == 2 ? widen<std::uint16_t>(from, to) : widen<std::uint32_t>(from, to);
  }
};

void Shard::Impl::read_metadata(const h5::File& file) {
  metadata.document_offsets = file.read_all<std::uint64_t>(shard_format::kOffsets);
  metadata.document_language = file.read_all<std::uint8_t>(shard_format::kLanguage);
  metadata.document_source = file.read_all<std::uint64_t>(shard_format::kSource);
  metadata.language_tokens = file.read_all<std::uint64_t>(shard_format::kLanguageTokens);
  metadata.block_checksums = file.read_all<std::uint64_t>(shard_format::kBlockChecksums);
  require_checksums(path, metadata, file.read_all<std::uint64_t>(shard_format::kMetaChecksums));
  header.language_tokens = metadata.language_tokens;
  require_consistent(path, header, metadata);
}

void Shard::Impl::open(ShardIo io) {
  const h5::File file = h5::File::open(path);
  require_format(file, path);
  header = read_header(file);
  read_metadata(file);
  const bool narrow = header.vocab_size <= shard_format::kLargestU16Vocabulary;
  width = narrow ? 2 : 4;
  const h5::Extent extent = file.extent(shard_format::kTokens);
  const std::uint64_t blocks =
      (extent.bytes + shard_format::kBlockBytes - 1) / shard_format::kBlockBytes;
  if (extent.type != (narrow ? h5::Type::u16 : h5::Type::u32) || extent.count != header.n_tokens ||
      extent.bytes != extent.count * width || metadata.block_checksums.size() != blocks)
    damaged(path, "/tokens does not have the type and length that the header says");
  const std::uint64_t size = fs::file_size(path);
  if (extent.bytes > size || extent.offset > size - extent.bytes)
    damaged(path, "/tokens goes past the end of the file");
  hash = shard_format::content_hash(metadata);
  bytes.emplace(path, io, extent.offset);
  verified = std::make_unique<std::atomic<bool>[]>(blocks);
}

void Shard::Impl::verify_block(std::uint64_t block) const {
  // Two threads may verify a block at once: both come to the same result.
  if (verified[block].load(std::memory_order_relaxed)) return;
  const std::uint64_t begin = block * shard_format::kBlockBytes;
  const std::uint64_t count = std::min(shard_format::kBlockBytes, header.n_tokens * width - begin);
  const std::string where = "block " + std::to_string(block) + " of /tokens (bytes " +
                            std::to_string(begin) + " to " + std::to_string(begin + count - 1) +
                            ")";
  std::vector<std::byte> scratch;
  const auto stored = bytes->get(begin, count, scratch);
  if (xxh3_64(stored) != metadata.block_checksums[block])
    damaged(path, "the checksum of " + where + " is wrong");
  std::vector<std::int32_t> ids(count / width);
  copy(stored, ids.data());
  if (std::ranges::any_of(ids, [&](std::int32_t id) { return id < 0 || id >= header.vocab_size; }))
    damaged(path, where + " holds an id outside the vocabulary");
  verified[block].store(true, std::memory_order_relaxed);
}

Shard::Shard(const fs::path& path, ShardIo io) : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  impl_->open(io);
}

Shard::Shard(Shard&&) noexcept = default;
Shard& Shard::operator=(Shard&&) noexcept = default;
Shard::~Shard() = default;

const fs::path& Shard::path() const { return impl_->path; }
const ShardHeader& Shard::header() const { return impl_->header; }
const std::string& Shard::hash() const { return impl_->hash; }
std::span<const std::uint64_t> Shard::document_offsets() const {
  return impl_->metadata.document_offsets;
}
std::span<const std::uint8_t> Shard::document_language() const {
  return impl_->metadata.document_language;
}
std::span<const std::uint64_t> Shard::document_source() const {
  return impl_->metadata.document_source;
}

void Shard::read(std::uint64_t begin, std::span<std::int32_t> out) const {
  const std::uint64_t tokens = impl_->header.n_tokens;
  ensure(out.size() <= tokens && begin <= tokens - out.size(), "shard: read outside the tokens");
  if (out.empty()) return;
  const std::uint64_t first = begin * impl_->width, count = out.size() * impl_->width;
  for (std::uint64_t block = first / shard_format::kBlockBytes;
       block <= (first + count - 1) / shard_format::kBlockBytes; ++block)
    impl_->verify_block(block);
  std::vector<std::byte> scratch;
  impl_->copy(impl_->bytes->get(first, count, scratch), out.data());
}

void Shard::prefetch(std::uint64_t begin, std::uint64_t count) const {
  impl_->bytes->prefetch(begin * impl_->width, count * impl_->width);
}

void Shard::verify() const {
  for (std::uint64_t block = 0; block < impl_->metadata.block_checksums.size(); ++block)
    impl_->verify_block(block);
  for (const std::uint64_t end : document_offsets().subspan(1)) {
    std::int32_t last = 0;
    read(end - 1, {&last, 1});
    if (last != SpecialIds::eos)
      damaged(impl_->path,
              "the document that ends at token " + std::to_string(end) + " does not end with </s>");
  }
}

}  // namespace demist::data
