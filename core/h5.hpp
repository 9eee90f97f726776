// The part of HDF5 that Demist uses: contiguous datasets that can be mapped, and attributes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace demist::h5 {

// Debian's parallel HDF5 is not thread-safe: every call below takes one process-wide lock. Loader
// threads read mapped bytes at Extent::offset instead and never come here.

// Makes the library ready. Its first call asks MPI for things, so a program whose other threads
// write files lets the thread that calls MPI come here first.
void start();

std::string library_version();  // "1.10.8": of the library that is loaded

enum class Type { u8, u16, u32, u64, i64, f32, f64 };
std::size_t size_of(Type type);

// Where a contiguous dataset's bytes lie in the file.
struct Extent {
  std::uint64_t offset = 0;  // bytes from the start of the file
  std::uint64_t bytes = 0;
  std::uint64_t count = 0;  // elements
  Type type = Type::u8;
};

// The bytes of a file that was made in memory.
class Image {
 public:
  std::span<const std::byte> bytes() const { return {data_.get(), size_}; }

 private:
  friend struct ImageMemory;
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_ = 0;
};

// One open file. All failures throw DataError naming the file, the object and HDF5's own reason;
// what the system does not read, UnreadError.
class File {
 public:
  // Superblock v2+ (library bounds V110): a file whose writer died is refused when opened. Datasets
  // of 64 KiB and more start at a multiple of 4,096 bytes.
  static File create(const std::filesystem::path& path);
  // The same file in memory, for finish(); `path` is for messages. HDF5 1.10 crashes in
  // MPI_Finalize after a full disk refused one of its writes, so what can run out of space goes
  // around it.
  static File create_in_memory(const std::filesystem::path& path);
  Image finish();  // closes a file in memory; its bytes, as create() would have put them on disk
  // Makes an empty file at `path`, and writes what create() would write there to `descriptor`.
  static File create_elsewhere(const std::filesystem::path& path, int descriptor);
  static File open(const std::filesystem::path& path);  // read-only

  File(File&& other) noexcept;
  File& operator=(File other) noexcept;
  ~File();
  void close();  // reports errors; the destructor is silent

  // Groups in `name` are made as needed. A dataset is contiguous, 1-D, little endian.
  void write(const std::string& name, Type type, const void* data, std::uint64_t count);
  // The same, allocated now and filled piece by piece with write_at.
  void allocate(const std::string& name, Type type, std::uint64_t count);
  void write_at(const std::string& name, std::uint64_t start, const void* data,
                std::uint64_t count);
  void read(const std::string& name, Type type, void* data, std::uint64_t count) const;
  void read_at(const std::string& name, Type type, std::uint64_t start, void* data,
               std::uint64_t count) const;
  bool exists(const std::string& name) const;
  Extent extent(const std::string& name) const;

  template <class T>
  std::vector<T> read_all(const std::string& name) const {
    std::vector<T> values(extent(name).count);
    read(name, type_of<T>(), values.data(), values.size());
    return values;
  }
  template <class T>
  void write(const std::string& name, const std::vector<T>& values) {
    write(name, type_of<T>(), values.data(), values.size());
  }

  // Attributes of the object `on` ("/" is the root).
  void set_attribute(const std::string& on, const std::string& name, const std::string& value);
  void set_attribute(const std::string& on, const std::string& name, std::uint64_t value);
  std::string string_attribute(const std::string& on, const std::string& name) const;
  std::uint64_t uint_attribute(const std::string& on, const std::string& name) const;
  bool has_attribute(const std::string& on, const std::string& name) const;

 private:
  template <class T>
  static constexpr Type type_of() {
    if constexpr (std::is_same_v<T, std::uint8_t>) return Type::u8;
    if constexpr (std::is_same_v<T, std::uint16_t>) return Type::u16;
    if constexpr (std::is_same_v<T, std::uint32_t>) return Type::u32;
    if constexpr (std::is_same_v<T, std::uint64_t>) return Type::u64;
    if constexpr (std::is_same_v<T, std::int64_t>) return Type::i64;
    if constexpr (std::is_same_v<T, float>) return Type::f32;
    if constexpr (std::is_same_v<T, double>) return Type::f64;
  }
  File(std::int64_t id, std::filesystem::path path) : id_(id), path_(std::move(path)) {}
  std::int64_t id_ = -1;
  std::filesystem::path path_;
  std::unique_ptr<Image> image_;  // of a file in memory
};

}  // namespace demist::h5
