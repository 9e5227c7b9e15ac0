// What a device hands over to make a program. src/device/cpu/program-blob.ts writes it; places are in bytes from its start.
#pragma once

#include "program.h"
#include "step-layout.h"

struct NtProgramHeader {
  int32_t num_commands;
  int32_t num_kv_caches;
  int32_t num_groups;
  int32_t block_size;
  int32_t max_num_tokens;
  int32_t max_num_seqs;
  int32_t max_num_logit_rows;
  int32_t num_constants;
  int64_t commands;   // of needletail::Command, whose `constants` is a place too, 0 for none
  int64_t kv_caches;  // of needletail::KvCache
  int64_t constants;  // floats
  uint8_t* workspace;
  needletail::Operand logits;
  int32_t group_num_blocks[needletail::kMaxGroups];
};

static_assert(sizeof(NtProgramHeader) == 32 + 32 + 56 + 32, "the device writes it");
