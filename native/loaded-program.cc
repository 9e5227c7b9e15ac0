// Making programs from what the device hands over.
#include "loaded-program.h"

#include <algorithm>
#include <climits>
#include <new>

#include "../src/kernels/cpu/sample.h"
#include "kernel-table.h"
#include "needletail.h"

namespace needletail {

Scratch::~Scratch() {
  if (data_) nt_memory_free(data_, bytes_);
}

bool Scratch::allocate(int64_t bytes) {
  void* memory;
  if (nt_memory_allocate(bytes, &memory) != NT_OK) return false;
  data_ = static_cast<uint8_t*>(memory);
  bytes_ = bytes;
  return true;
}

namespace {

template <typename T>
std::vector<T> copy_array(const NtProgramHeader* header, int64_t place, int32_t count) {
  const T* first = reinterpret_cast<const T*>(reinterpret_cast<const uint8_t*>(header) + place);
  return std::vector<T>(first, first + count);
}

bool is_well_formed(const Command& command) {
  if (command.num_variants < 1 || command.num_variants > Command::kMaxVariants) return false;
  for (int32_t i = 0; i < command.num_variants; i++) {
    if (command.variants[i].kernel < 0 || command.variants[i].kernel >= num_kernels()) return false;
  }
  return true;
}

void limit_ids(LoadedProgram* program, const Command& command) {
  const KernelEntry& kernel = kernel_at(command.variants[0].kernel);
  if (kernel.ids_input < 0) return;
  const auto rows = int32_t(std::min<int64_t>(INT_MAX, command.inputs[kernel.table_input].rows));
  const auto name = InputName(command.inputs[kernel.ids_input].index);
  int32_t& limit = name == InputName::kTokenIds ? program->token_id_limit : program->position_limit;
  limit = std::min(limit, rows);
}

ScratchBytes scratch_of(const LoadedProgram& program, const Command& command) {
  const KernelEntry& kernel = kernel_at(command.variants[0].kernel);
  if (!kernel.scratch) return {0, 0};
  return kernel.scratch(command, {program.kv_caches.data(), program.header.max_num_seqs});
}

bool allocate_scratch(LoadedProgram* program) {
  ScratchBytes most{sampling_scratch_bytes(program->vocab_size()), 0};
  for (const Command& command : program->commands) {
    const ScratchBytes wanted = scratch_of(*program, command);
    most = {std::max(most.per_thread, wanted.per_thread), std::max(most.shared, wanted.shared)};
  }
  program->thread_scratch_bytes = (most.per_thread + 4095) / 4096 * 4096;
  return program->thread_scratch.allocate(program->thread_scratch_bytes * program->runtime->num_threads()) &&
         program->shared_scratch.allocate(std::max<int64_t>(most.shared, 1));
}

int32_t make_program(Runtime* runtime, const NtProgramHeader* header, LoadedProgram* program) {
  if (header->num_groups > kMaxGroups) return NT_INVALID_ARGUMENT;
  program->runtime = runtime;
  program->header = *header;
  program->commands = copy_array<Command>(header, header->commands, header->num_commands);
  program->kv_caches = copy_array<KvCache>(header, header->kv_caches, header->num_kv_caches);
  program->constants = copy_array<float>(header, header->constants, header->num_constants);
  program->token_id_limit = program->position_limit = INT_MAX;
  for (Command& command : program->commands) {
    if (!is_well_formed(command)) return NT_INVALID_ARGUMENT;
    if (command.constants) {
      const int64_t place = reinterpret_cast<int64_t>(command.constants) - header->constants;
      command.constants = program->constants.data() + place / int64_t(sizeof(float));
    }
    limit_ids(program, command);
  }
  return allocate_scratch(program) ? NT_OK : NT_OUT_OF_MEMORY;
}

}  // namespace
}  // namespace needletail

int32_t nt_program_create(void* runtime, const NtProgramHeader* header, void** program) {
  auto* made = new (std::nothrow) needletail::LoadedProgram();
  if (!made) return NT_OUT_OF_MEMORY;
  const int32_t status = needletail::make_program(static_cast<needletail::Runtime*>(runtime), header, made);
  if (status == NT_OK) *program = made;
  else delete made;
  return status;
}

void nt_program_destroy(void* program) { delete static_cast<needletail::LoadedProgram*>(program); }
