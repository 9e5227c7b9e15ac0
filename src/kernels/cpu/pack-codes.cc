// Packing of codes and scales. A row's floats are quantized to the rules of src/tensor/quantize-rows.ts, bit by bit; its codes
// become 32-bit words, and words of sixteen rows are transposed vector by vector.
#include "pack-codes.h"

#include <algorithm>
#include <vector>

#include "code-values.h"
#include "part-view.h"
#include "row-range.h"

namespace needletail {
namespace {

constexpr int kPanelRows = 16;

struct GroupScale {
  float scale, zero;
};

bool is_bad(float scale) { return !(std::abs(scale) <= 3.4028234e38f) || scale == 0; }

/// Written by any thread that finds one.
void report_bad_scale(NtLoadTask& task) { __atomic_store_n(&task.has_bad_scale, 1, __ATOMIC_RELAXED); }

/// Over the range of the values and 0. The zero of a scale that is not finite is 0.
GroupScale range_scale(const float* x, int64_t size) {
  Floats least = zeros(), most = zeros();
  for_each_vector(size, [&](int64_t i, int count) {
    const Floats v = load_lanes(x + i, count);
    least = min(least, v);
    most = max(most, v);
  });
  const float lowest = -max_lanes(-least);
  const float difference = max_lanes(most) - lowest;
  const float scale = nonzero_scale((absmax(x, size) <= 3.4028234e38f ? difference : NAN) / 15.0f);
  return {scale, float(round_to_int(broadcast(-lowest / scale))[0])};
}

GroupScale scale_of_group(const NtLoadTask& task, const float* x) {
  if (task.has_zeros) return range_scale(x, task.group_size);
  const float largest = absmax(x, task.group_size);
  switch (task.code_dtype) {
    case DType::kUint4: return {nonzero_scale(largest / 7.0f), 8};
    case DType::kFloat8: return {scale_of<Float8>(largest), 0};
    default: return {scale_of<Int8>(largest), 0};
  }
}

void encode_uint4(const float* x, int64_t size, GroupScale group, uint8_t* codes) {
  for_each_vector(size, [&](int64_t i, int count) {
    const Ints whole = round_to_int(clamp(load_lanes(x + i, count) / group.scale, 31.0f)) + int32_t(group.zero);
    const Ints raised = whole & (whole > 0);
    const Ints code = select_bits(raised > 15, broadcast_int(15), raised);
    uint8_t bytes[kLanes];
    store_bytes(bytes, code);
    std::memcpy(codes + i, bytes, count);
  });
}

void encode_group(const NtLoadTask& task, const float* x, GroupScale group, uint8_t* codes) {
  switch (task.code_dtype) {
    case DType::kUint4: return encode_uint4(x, task.group_size, group, codes);
    case DType::kFloat8: return store_codes(x, task.group_size, group.scale, reinterpret_cast<Float8*>(codes));
    default: return store_codes(x, task.group_size, group.scale, reinterpret_cast<Int8*>(codes));
  }
}

void read_floats(const NtLoadTask& task, int64_t row, float* out) {
  switch (task.source_dtype) {
    case DType::kBfloat16: return PartView<Bfloat16>(task).read_row(row, 0, task.column_count, out);
    case DType::kFloat16: return PartView<Float16>(task).read_row(row, 0, task.column_count, out);
    default: return PartView<float>(task).read_row(row, 0, task.column_count, out);
  }
}

/// A row's codes, one per byte, as the tensor holds them: each in a byte, or two, the even element's in the low half.
void read_codes(const NtLoadTask& task, int64_t row, uint8_t* codes) {
  const auto* bytes = static_cast<const uint8_t*>(task.source);
  const PartView<uint8_t> part(task);
  const int64_t first = part.at(row, 0) - bytes, step = part.column_stride;
  if (task.code_dtype == DType::kUint4) {
    for (int64_t i = 0; i < task.column_count; i++) {
      const int64_t element = first + i * step;
      codes[i] = (bytes[element / 2] >> (element % 2 * 4)) & 15;
    }
  } else {
    for (int64_t i = 0; i < task.column_count; i++) codes[i] = bytes[first + i * step];
  }
}

/// A row on its way from a tensor to a weight.
class RowEncoder {
 public:
  explicit RowEncoder(NtLoadTask& task) : task_(task), floats_(task.column_count), codes_(padded(task.column_count)) {}

  /// `num_words` words of codes, columns that do not exist being 0.
  void encode(int64_t row, uint32_t* words, int64_t num_words) {
    if (task_.holds == NtLoadHolds::kCodes) read_codes(task_, row, codes_.data());
    else quantize(row);
    for (int64_t word = 0; word < num_words; word++) {
      uint32_t halves[2];
      if (task_.code_dtype == DType::kUint4) {
        std::memcpy(halves, codes_.data() + 8 * word, 8);
        words[word] = halves[0] | halves[1] << 4;
      } else {
        std::memcpy(words + word, codes_.data() + 4 * word, 4);
      }
    }
  }

 private:
  static int64_t padded(int64_t columns) { return (columns + 7) / 8 * 8; }

  void quantize(int64_t row) {
    read_floats(task_, row, floats_.data());
    for (int64_t column = 0; column < task_.column_count; column += task_.group_size) {
      const GroupScale group = scale_of_group(task_, floats_.data() + column);
      if (is_bad(group.scale)) report_bad_scale(task_);
      encode_group(task_, floats_.data() + column, group, codes_.data() + column);
    }
  }

  NtLoadTask& task_;
  std::vector<float> floats_;
  std::vector<uint8_t> codes_;
};

/// Words of sixteen rows, `stride` apart, into a panel.
void transpose_words(const uint32_t* words, int64_t stride, int64_t num_words, uint32_t* panel) {
  for (int first_row = 0; first_row < kPanelRows; first_row += kLanes) {
    for (int64_t word = 0; word < num_words; word += kLanes) {
      Floats square[kLanes];
      NEEDLETAIL_UNROLL
      for (int i = 0; i < kLanes; i++) square[i] = load_bits<Floats>(words + (first_row + i) * stride + word);
      transpose(square);
      const int count = int(std::min<int64_t>(kLanes, num_words - word));
      for (int i = 0; i < count; i++) {
        std::memcpy(panel + (word + i) * kPanelRows + first_row, &square[i], sizeof square[i]);
      }
    }
  }
}

/// A panel that other parts share, or that is not full.
void place_words(const uint32_t* words, int64_t stride, int num_rows, int first_row, int64_t num_words, uint32_t* panel) {
  for (int row = 0; row < num_rows; row++) {
    for (int64_t word = 0; word < num_words; word++) {
      panel[word * kPanelRows + first_row + row] = words[row * stride + word];
    }
  }
}

Range panels_of(const ThreadContext& context, const NtLoadTask& task) {
  const int64_t first = task.target_row / kPanelRows;
  const int64_t end = (task.target_row + task.row_count + kPanelRows - 1) / kPanelRows;
  const Range share = share_of(context, end - first);
  return {first + share.begin, first + share.end};
}

/// Where a row of scales goes, and how far apart its elements are.
struct ScaleRow {
  float* first;
  int64_t stride;

  ScaleRow(const NtLoadTask& task, int64_t row, int64_t columns) {
    auto* target = static_cast<float*>(task.target);
    const bool is_panel = task.layout == Layout::kPanel16;
    first = is_panel ? target + row / kPanelRows * kPanelRows * columns + row % kPanelRows : target + row * columns;
    stride = is_panel ? kPanelRows : 1;
  }
};

}  // namespace

void pack_codes(const ThreadContext& context, NtLoadTask& task) {
  const int word_columns = task.code_dtype == DType::kUint4 ? 8 : 4;
  const int64_t num_words = (task.column_count + word_columns - 1) / word_columns;
  const int64_t stride = (num_words + kLanes - 1) / kLanes * kLanes;
  std::vector<uint32_t> words(kPanelRows * stride);
  RowEncoder encoder(task);
  const Range panels = panels_of(context, task);
  for (int64_t panel = panels.begin; panel < panels.end; panel++) {
    const int64_t first = std::max(panel * kPanelRows, task.target_row);
    const int num_rows = int(std::min((panel + 1) * kPanelRows, task.target_row + task.row_count) - first);
    for (int row = 0; row < num_rows; row++) {
      encoder.encode(first - task.target_row + row, words.data() + row * stride, num_words);
    }
    auto* target = static_cast<uint32_t*>(task.target) + panel * kPanelRows * num_words;
    if (num_rows == kPanelRows) transpose_words(words.data(), stride, num_words, target);
    else place_words(words.data(), stride, num_rows, int(first % kPanelRows), num_words, target);
  }
}

void pack_made_scales(const ThreadContext& context, NtLoadTask& task) {
  const int per_group = task.has_zeros ? 2 : 1;
  const int64_t columns = task.column_count / task.group_size * per_group;
  std::vector<float> floats(task.column_count);
  const Range rows = share_of(context, task.row_count);
  for (int64_t row = rows.begin; row < rows.end; row++) {
    read_floats(task, row, floats.data());
    const ScaleRow to(task, task.target_row + row, columns);
    for (int64_t i = 0; i < columns; i += per_group) {
      const GroupScale group = scale_of_group(task, floats.data() + i / per_group * task.group_size);
      if (is_bad(group.scale)) report_bad_scale(task);
      to.first[i * to.stride] = group.scale;
      if (task.has_zeros) to.first[(i + 1) * to.stride] = group.zero;
    }
  }
}

void check_scales(const ThreadContext& context, NtLoadTask& task) {
  std::vector<float> scales(task.column_count);
  const Range rows = share_of(context, task.row_count);
  for (int64_t row = rows.begin; row < rows.end; row++) {
    read_floats(task, row, scales.data());
    for (int64_t i = 0; i < task.column_count; i += task.has_zeros ? 2 : 1) {
      if (is_bad(scales[i])) report_bad_scale(task);
    }
  }
}

}  // namespace needletail
