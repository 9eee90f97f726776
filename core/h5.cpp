// SPDX-License-Identifier: Apache-2.0
#include "core/h5.hpp"

#include <fcntl.h>
#include <hdf5.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>

#include "core/error.hpp"
#include "core/file.hpp"

namespace demist::h5 {
namespace {

std::mutex& library_mutex() {
  static std::mutex mutex;
  return mutex;
}

// What the system said, where HDF5 quotes it; else HDF5's words. One line.
std::string short_reason(std::string text) {
  constexpr std::string_view quote = "error message = '";
  const std::size_t at = text.find(quote);
  if (at != std::string::npos) {
    const std::size_t begin = at + quote.size();
    return text.substr(begin, text.find('\'', begin) - begin);
  }
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

// Holds the lock and silences HDF5's own stack printing; reason() reads it instead.
class Library {
 public:
  Library() : lock_(library_mutex()) { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }
  static std::string reason() {
    const std::string text = innermost();
    return text.empty() ? "unknown HDF5 error" : short_reason(text);
  }
  // The errno that HDF5 quotes; 0: the system had nothing against it.
  static int system_error() {
    constexpr std::string_view quote = "errno = ";
    const std::string text = innermost();
    const std::size_t at = text.find(quote);
    return at == std::string::npos ? 0 : std::atoi(text.c_str() + at + quote.size());
  }

 private:
  static std::string innermost() {
    std::string text;
    H5Ewalk2(
        H5E_DEFAULT, H5E_WALK_UPWARD,
        [](unsigned n, const H5E_error2_t* e, void* out) -> herr_t {
          if (n == 0 && e->desc != nullptr) *static_cast<std::string*>(out) = e->desc;
          return 0;
        },
        &text);
    return text;
  }

  std::lock_guard<std::mutex> lock_;
};

template <herr_t (*Close)(hid_t)>
class Id {
 public:
  explicit Id(hid_t raw) : raw_(raw) {}
  Id(Id&& other) noexcept : raw_(std::exchange(other.raw_, H5I_INVALID_HID)) {}
  Id(const Id&) = delete;
  Id& operator=(const Id&) = delete;
  ~Id() {
    if (raw_ >= 0) Close(raw_);
  }
  hid_t get() const { return raw_; }
  bool valid() const { return raw_ >= 0; }

 private:
  hid_t raw_;
};
using Space = Id<H5Sclose>;
using Dataset = Id<H5Dclose>;
using Properties = Id<H5Pclose>;
using Attribute = Id<H5Aclose>;
using Object = Id<H5Oclose>;
using DataType = Id<H5Tclose>;

hid_t native(Type type) {
  switch (type) {
    case Type::u8:
      return H5T_NATIVE_UINT8;
    case Type::u16:
      return H5T_NATIVE_UINT16;
    case Type::u32:
      return H5T_NATIVE_UINT32;
    case Type::u64:
      return H5T_NATIVE_UINT64;
    case Type::i64:
      return H5T_NATIVE_INT64;
    case Type::f32:
      return H5T_NATIVE_FLOAT;
    case Type::f64:
      return H5T_NATIVE_DOUBLE;
  }
  throw InternalError("h5: unknown type");
}

hid_t stored(Type type) {
  switch (type) {
    case Type::u8:
      return H5T_STD_U8LE;
    case Type::u16:
      return H5T_STD_U16LE;
    case Type::u32:
      return H5T_STD_U32LE;
    case Type::u64:
      return H5T_STD_U64LE;
    case Type::i64:
      return H5T_STD_I64LE;
    case Type::f32:
      return H5T_IEEE_F32LE;
    case Type::f64:
      return H5T_IEEE_F64LE;
  }
  throw InternalError("h5: unknown type");
}

// What a file that could be opened does not give is missing or damaged.
[[noreturn]] void fail_reading(const std::filesystem::path& path, const std::string& object,
                               const char* verb) {
  const std::string what = std::string(verb) + " '" + object + "'";
  if (const int error = Library::system_error(); error != 0) refuse_unread(path, what, error);
  throw DataError(path.string() + ": cannot " + what + ": " + Library::reason() +
                  "; restore the file, or make it again");
}

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& object,
                       const char* verb) {
  throw DataError(path.string() + ": cannot " + verb + " '" + object + "': " + Library::reason());
}

Properties file_access() {
  Properties properties(H5Pcreate(H5P_FILE_ACCESS));
  // V110+: a file that its writer did not close is refused; with older bounds it opens silently.
  H5Pset_libver_bounds(properties.get(), H5F_LIBVER_V110, H5F_LIBVER_V110);
  H5Pset_alignment(properties.get(), 65536, 4096);
  return properties;
}

}  // namespace

void start() {
  const Library library;
  H5open();
}

std::string library_version() {
  const Library library;
  unsigned major = 0, minor = 0, release = 0;
  if (H5get_libversion(&major, &minor, &release) < 0) return "not known";
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(release);
}

std::size_t size_of(Type type) {
  switch (type) {
    case Type::u8:
      return 1;
    case Type::u16:
      return 2;
    case Type::u32:
    case Type::f32:
      return 4;
    default:
      return 8;
  }
}

namespace {
hid_t create_file(const std::filesystem::path& path, const Properties& access) {
  const Properties creation(H5Pcreate(H5P_FILE_CREATE));
  H5Pset_obj_track_times(creation.get(), 0);  // equal content, equal bytes, whenever it is written
  const hid_t id = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get());
  if (id < 0) fail(path, "/", "create");
  return id;
}
}  // namespace

File File::create(const std::filesystem::path& path) {
  const Library library;
  const Properties access = file_access();  // closing it would clear the reason of a failure
  return {create_file(path, access), path};
}

File File::create_elsewhere(const std::filesystem::path& path, int descriptor) {
  File file = create(path);
  const Library library;
  void* own = nullptr;  // of the default driver: the address of its descriptor
  if (H5Fget_vfd_handle(file.id_, H5P_DEFAULT, &own) < 0 || own == nullptr ||
      ::dup2(descriptor, *static_cast<int*>(own)) < 0)
    fail(path, "/", "divert");
  return file;
}

// Where the core driver keeps its file. It frees the memory when the file is closed: that is the
// moment to take it (H5Fget_file_image of 1.10.8 gives a superblock with a wrong checksum).
struct ImageMemory {
  static void* allocate(std::size_t size, H5FD_file_image_op_t, void* image) {
    return resize(nullptr, size, H5FD_FILE_IMAGE_OP_NO_OP, image);
  }
  static void* resize(void* data, std::size_t size, H5FD_file_image_op_t, void* image) {
    static_cast<Image*>(image)->size_ = size;
    return std::realloc(data, size);
  }
  static void* copy(void* to, const void* from, std::size_t size, H5FD_file_image_op_t, void*) {
    return std::memcpy(to, from, size);
  }
  static herr_t release(void* data, H5FD_file_image_op_t, void* image) {
    static_cast<Image*>(image)->data_.reset(static_cast<std::byte*>(data));
    return 0;
  }
  static void* share(void* image) { return image; }
  static herr_t unshare(void*) { return 0; }
};

File File::create_in_memory(const std::filesystem::path& path) {
  const Library library;
  auto image = std::make_unique<Image>();
  const Properties access = file_access();
  H5FD_file_image_callbacks_t callbacks{
      ImageMemory::allocate, ImageMemory::copy,    ImageMemory::resize, ImageMemory::release,
      ImageMemory::share,    ImageMemory::unshare, image.get()};
  constexpr std::size_t increment = 1;  // byte: the memory is as long as the file
  H5Pset_fapl_core(access.get(), increment, /*backing_store=*/0);
  H5Pset_file_image_callbacks(access.get(), &callbacks);
  File file(create_file(path, access), path);
  file.image_ = std::move(image);
  return file;
}

Image File::finish() {
  ensure(image_ != nullptr, "h5: only a file in memory has an image");
  close();
  return std::move(*image_);
}

File File::open(const std::filesystem::path& path) {
  {  // HDF5 has words of its own for what the system says
    const Descriptor file(path, O_RDONLY);
    if (file.get() < 0) refuse_unread(path, "open", errno);
    char first = 0;
    if (::pread(file.get(), &first, 1, 0) < 0) refuse_unread(path, "read", errno);
  }
  const Library library;
  const Properties access = file_access();
  const hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get());
  if (id < 0)
    throw DataError(path.string() + ": is not a whole HDF5 file (" + Library::reason() +
                    "); restore it, or make it again");
  return {id, path};
}

File::File(File&& other) noexcept
    : id_(std::exchange(other.id_, -1)),
      path_(std::move(other.path_)),
      image_(std::move(other.image_)) {}

File& File::operator=(File other) noexcept {
  std::swap(id_, other.id_);
  std::swap(path_, other.path_);
  std::swap(image_, other.image_);
  return *this;
}

File::~File() {
  if (id_ < 0) return;
  const Library library;
  H5Fclose(id_);
}

void File::close() {
  const Library library;
  if (id_ >= 0 && H5Fclose(std::exchange(id_, -1)) < 0) fail(path_, "/", "close");
}

namespace {
// Those that HDF5 makes on the way to a dataset by itself hold the time.
void make_groups_of(hid_t file, const std::filesystem::path& path, const std::string& name) {
  const Properties creation(H5Pcreate(H5P_GROUP_CREATE));
  H5Pset_obj_track_times(creation.get(), 0);
  for (std::size_t end = name.find('/', 1); end != std::string::npos;
       end = name.find('/', end + 1)) {
    const std::string group = name.substr(0, end);
    if (H5Lexists(file, group.c_str(), H5P_DEFAULT) > 0) continue;
    const Object made(H5Gcreate2(file, group.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT));
    if (!made.valid()) fail(path, group, "create group");
  }
}
}  // namespace

void File::allocate(const std::string& name, Type type, std::uint64_t count) {
  const Library library;
  const hsize_t size = count;
  make_groups_of(id_, path_, name);
  const Space space(H5Screate_simple(1, &size, nullptr));
  const Properties layout(H5Pcreate(H5P_DATASET_CREATE));
  H5Pset_obj_track_times(layout.get(), 0);
  H5Pset_layout(layout.get(), H5D_CONTIGUOUS);
  H5Pset_alloc_time(layout.get(), H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(layout.get(), H5D_FILL_TIME_NEVER);
  const Dataset dataset(H5Dcreate2(id_, name.c_str(), stored(type), space.get(), H5P_DEFAULT,
                                   layout.get(), H5P_DEFAULT));
  if (!dataset.valid()) fail(path_, name, "create dataset");
}

void File::write(const std::string& name, Type type, const void* data, std::uint64_t count) {
  allocate(name, type, count);
  if (count == 0) return;
  const Library library;
  const Dataset dataset(H5Dopen2(id_, name.c_str(), H5P_DEFAULT));
  if (!dataset.valid() ||
      H5Dwrite(dataset.get(), native(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
    fail(path_, name, "write");
}

namespace {
// Selects [start, start + count) of a dataset; throws when it does not lie inside.
Space select(hid_t dataset, std::uint64_t start, std::uint64_t count) {
  Space space(H5Dget_space(dataset));
  const hsize_t offset = start, size = count;
  const hssize_t total = H5Sget_simple_extent_npoints(space.get());
  if (H5Sget_simple_extent_ndims(space.get()) != 1 || total < 0 ||
      start + count > static_cast<std::uint64_t>(total))
    throw InternalError("h5: selection outside the dataset");
  H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, &offset, nullptr, &size, nullptr);
  return space;
}
}  // namespace

void File::write_at(const std::string& name, std::uint64_t start, const void* data,
                    std::uint64_t count) {
  if (count == 0) return;
  const Library library;
  const Dataset dataset(H5Dopen2(id_, name.c_str(), H5P_DEFAULT));
  if (!dataset.valid()) fail(path_, name, "open dataset");
  const Space file_space = select(dataset.get(), start, count);
  const hsize_t size = count;
  const Space memory(H5Screate_simple(1, &size, nullptr));
  const DataType type(H5Dget_type(dataset.get()));
  const DataType memory_type(H5Tget_native_type(type.get(), H5T_DIR_ASCEND));
  if (H5Dwrite(dataset.get(), memory_type.get(), memory.get(), file_space.get(), H5P_DEFAULT,
               data) < 0)
    fail(path_, name, "write");
}

void File::read(const std::string& name, Type type, void* data, std::uint64_t count) const {
  read_at(name, type, 0, data, count);
}

void File::read_at(const std::string& name, Type type, std::uint64_t start, void* data,
                   std::uint64_t count) const {
  const Library library;
  const Dataset dataset(H5Dopen2(id_, name.c_str(), H5P_DEFAULT));
  if (!dataset.valid()) fail_reading(path_, name, "open dataset");
  if (count == 0) return;
  const Space file_space = select(dataset.get(), start, count);
  const hsize_t size = count;
  const Space memory(H5Screate_simple(1, &size, nullptr));
  if (H5Dread(dataset.get(), native(type), memory.get(), file_space.get(), H5P_DEFAULT, data) < 0)
    fail_reading(path_, name, "read");
}

bool File::exists(const std::string& name) const {
  const Library library;
  // H5Lexists fails when a parent is missing, so ask for every prefix.
  for (std::size_t at = name.find('/', 1);; at = name.find('/', at + 1)) {
    if (H5Lexists(id_, name.substr(0, at).c_str(), H5P_DEFAULT) <= 0) return false;
    if (at == std::string::npos) return true;
  }
}

Extent File::extent(const std::string& name) const {
  const Library library;
  const Dataset dataset(H5Dopen2(id_, name.c_str(), H5P_DEFAULT));
  if (!dataset.valid()) fail_reading(path_, name, "open dataset");
  const Space space(H5Dget_space(dataset.get()));
  if (H5Sget_simple_extent_ndims(space.get()) != 1)
    throw DataError(path_.string() + ": '" + name + "' is not a one-dimensional list of values");
  Extent extent;
  extent.count = static_cast<std::uint64_t>(H5Sget_simple_extent_npoints(space.get()));
  extent.bytes = H5Dget_storage_size(dataset.get());
  const DataType type(H5Dget_type(dataset.get()));
  bool known = false;
  for (const Type candidate :
       {Type::u8, Type::u16, Type::u32, Type::u64, Type::i64, Type::f32, Type::f64})
    if (H5Tequal(type.get(), stored(candidate)) > 0) {
      extent.type = candidate;
      known = true;
    }
  if (!known) throw DataError(path_.string() + ": '" + name + "' has an unsupported element type");
  const haddr_t offset = H5Dget_offset(dataset.get());
  if (offset == HADDR_UNDEF && extent.count > 0)
    throw DataError(path_.string() + ": '" + name + "' is not stored contiguously");
  extent.offset = offset == HADDR_UNDEF ? 0 : offset;
  return extent;
}

void File::set_attribute(const std::string& on, const std::string& name, const std::string& value) {
  const Library library;
  const Object object(H5Oopen(id_, on.c_str(), H5P_DEFAULT));
  const DataType type(H5Tcopy(H5T_C_S1));
  H5Tset_size(type.get(), value.empty() ? 1 : value.size());
  H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  const Space space(H5Screate(H5S_SCALAR));
  const Attribute attribute(
      H5Acreate2(object.get(), name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute.valid() || H5Awrite(attribute.get(), type.get(), value.c_str()) < 0)
    fail(path_, on + "@" + name, "write attribute");
}

void File::set_attribute(const std::string& on, const std::string& name, std::uint64_t value) {
  const Library library;
  const Object object(H5Oopen(id_, on.c_str(), H5P_DEFAULT));
  const Space space(H5Screate(H5S_SCALAR));
  const Attribute attribute(
      H5Acreate2(object.get(), name.c_str(), H5T_STD_U64LE, space.get(), H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute.valid() || H5Awrite(attribute.get(), H5T_NATIVE_UINT64, &value) < 0)
    fail(path_, on + "@" + name, "write attribute");
}

namespace {
// An attribute with one value: H5Aread writes as many as there are.
Attribute open_attribute(hid_t file, const std::filesystem::path& path, const std::string& on,
                         const std::string& name) {
  Attribute attribute(H5Aopen_by_name(file, on.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT));
  if (!attribute.valid()) fail_reading(path, on + "@" + name, "open attribute");
  const Space space(H5Aget_space(attribute.get()));
  const hssize_t count = H5Sget_simple_extent_npoints(space.get());
  if (count != 1)
    throw DataError(path.string() + ": attribute '" + on + "@" + name + "' has " +
                    std::to_string(count) + " values, not one");
  return attribute;
}
}  // namespace

std::string File::string_attribute(const std::string& on, const std::string& name) const {
  const Library library;
  const Attribute attribute = open_attribute(id_, path_, on, name);
  const DataType type(H5Aget_type(attribute.get()));
  if (H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) > 0)
    throw DataError(path_.string() + ": attribute '" + on + "@" + name +
                    "' is not a string of fixed length");
  std::string value(H5Tget_size(type.get()), '\0');
  if (H5Aread(attribute.get(), type.get(), value.data()) < 0)
    fail_reading(path_, on + "@" + name, "read string attribute");
  value.resize(value.find_last_not_of('\0') + 1);
  return value;
}

std::uint64_t File::uint_attribute(const std::string& on, const std::string& name) const {
  const Library library;
  const Attribute attribute = open_attribute(id_, path_, on, name);
  std::uint64_t value = 0;
  if (H5Aread(attribute.get(), H5T_NATIVE_UINT64, &value) < 0)
    fail_reading(path_, on + "@" + name, "read attribute");
  return value;
}

bool File::has_attribute(const std::string& on, const std::string& name) const {
  const Library library;
  return H5Aexists_by_name(id_, on.c_str(), name.c_str(), H5P_DEFAULT) > 0;
}

}  // namespace demist::h5
