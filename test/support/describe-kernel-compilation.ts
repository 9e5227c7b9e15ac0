// Compiles every kernel of every kind of plan for a chip, without one, and holds what it takes against the chip's limits.
import { readdirSync } from 'node:fs';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import type { Plan } from '../../src/compiler/plan.ts';
import { quantizationRules } from '../../src/compiler/quantization-rules.ts';
import { KERNEL_SOURCES, compilerTarget } from '../../src/device/cuda/kernel-cache.ts';
import type { CudaGpu, KernelLaunch, StepCounts } from '../../src/kernels/cuda/cuda-kernel.ts';
import type { HFConfig } from '../../src/models/model-definition.ts';
import { findPreset, presetNames } from '../../src/models/presets.ts';
import type { FloatDType } from '../../src/tensor/dtype.ts';
import type { Quantization } from '../../src/tensor/precision.ts';
import { cudaPlan, kernelLaunches, PLAN_LIMITS } from './cuda-launches.ts';
import { findKernelCompiler } from './kernel-compiler.ts';
import { loadReference, REFERENCE_NAMES } from './reference-checkpoint.ts';
import { SMALL_CONFIGS } from './small-configs.ts';

interface Chip {
  readonly computeCapability: number;
  /** Of a block: static and dynamic together. */
  readonly maxSharedKilobytes: number;
  readonly numMultiprocessors: number;
}

export const CHIPS: Readonly<Record<'A100' | 'RTX 30' | 'RTX 40' | 'H100', Chip>> = {
  A100: { computeCapability: 80, maxSharedKilobytes: 163, numMultiprocessors: 108 },
  'RTX 30': { computeCapability: 86, maxSharedKilobytes: 99, numMultiprocessors: 82 },
  'RTX 40': { computeCapability: 89, maxSharedKilobytes: 99, numMultiprocessors: 128 },
  H100: { computeCapability: 90, maxSharedKilobytes: 227, numMultiprocessors: 132 },
};

const MAX_THREADS = 1024;
const MAX_REGISTERS = 65536;
/** Registers are given out to warps by so many. */
const WARP_REGISTERS = 256;
const MAX_GRID = [2 ** 31 - 1, 65535, 65535];
/** More than some registers parked in memory between pieces of work would show. */
const MAX_SPILL_BYTES = 160;

/** Kernels of instructions that only Hopper has. */
const HOPPER_SOURCES = ['attention-latent.cu', 'attention-prefill-hopper.cu', 'linear-wgmma.cu'];

/**
 * Kernels that no plan names: they pack weights, make tables, copy blocks, bring a step's arrays, measure. And one of plans of
 * checkpoints whose codes are in another order.
 */
const OTHER_SOURCES: readonly Pick<KernelLaunch, 'source' | 'defines'>[] = [
  { source: 'copy-blocks.cu', defines: {} },
  { source: 'permute-columns.cu', defines: { X: 'bf16' } },
  { source: 'stage-step.cu', defines: {} },
  { source: 'read-memory.cu', defines: {} },
  { source: 'rope-table.cu', defines: {} },
  { source: 'pack-weight.cu', defines: { SOURCE: 'float', TARGET: 'bf16' } },
  { source: 'pack-nibbles.cu', defines: {} },
  { source: 'quantize-weight.cu', defines: { SOURCE: 'bf16', CODES: 'uint4_codes', HAS_ZEROS: 1 } },
  { source: 'quantize-weight.cu', defines: { SOURCE: 'float', CODES: 'e4m3', HAS_ZEROS: 0 } },
];

export function describeKernelCompilation(name: keyof typeof CHIPS): void {
  const compiler = findKernelCompiler();
  const { computeCapability, maxSharedKilobytes, numMultiprocessors } = CHIPS[name];
  const target = compilerTarget(computeCapability, [computeCapability]);
  const title = `kernels for ${target} (${name})`;
  if (!compiler) {
    describe.skip(`${title} (skipped: neither NVRTC nor nvcc is installed)`, () => it('', () => {}));
    return;
  }

  describe(`${title}, by ${compiler.version}`, () => {
    const maxSharedMemoryPerBlock = maxSharedKilobytes * 1024;
    let launches: readonly KernelLaunch[];
    beforeAll(() => {
      launches = distinctLaunches(
        { computeCapability, maxSharedMemoryPerBlock, numMultiprocessors },
        compiler.dtypes,
      );
    });

    it('compile, within the limits of the chip', { timeout: 1_200_000 }, () => {
      for (const { source, entry, defines, block, sharedBytes } of launches) {
        const use = compiler.report(source, defines, target).get(entry)!;
        const what = `${entry} of ${source} with ${JSON.stringify(defines)}`;
        const warpRegisters = Math.ceil((use.registers * 32) / WARP_REGISTERS) * WARP_REGISTERS;
        expect(block, `threads of ${what}`).toBeLessThanOrEqual(MAX_THREADS);
        expect((block / 32) * warpRegisters, `registers of ${what}`).toBeLessThanOrEqual(MAX_REGISTERS);
        expect(use.staticSharedBytes + sharedBytes, `shared memory of ${what}`).toBeLessThanOrEqual(
          maxSharedMemoryPerBlock,
        );
        expect(use.spillBytes, `spilled bytes of ${what}`).toBeLessThanOrEqual(MAX_SPILL_BYTES);
      }
      for (const { source, defines } of OTHER_SOURCES)
        expect(compiler.report(source, defines, target).size, source).toBeGreaterThan(0);
    });

    it('start grids that the driver takes, at the largest step', () => {
      for (const { entry, grid } of launches)
        for (const counts of LARGEST_STEPS)
          grid(counts).forEach((size, axis) =>
            expect(size, `grid of ${entry}`).toBeLessThanOrEqual(MAX_GRID[axis]),
          );
    });

    it('are all reached by the plans tried', () => {
      const reached = new Set([...launches, ...OTHER_SOURCES].map(({ source }) => source));
      const foreign = computeCapability === 90 ? [] : HOPPER_SOURCES;
      const sources = readdirSync(KERNEL_SOURCES).filter(
        (file) => file.endsWith('.cu') && !foreign.includes(file),
      );
      expect(sources.filter((source) => !reached.has(source))).toEqual([]);
    });
  });
}

/** A step of prompts alone, and one of decodes. */
const LARGEST_STEPS: readonly StepCounts[] = [
  { numSeqs: 1, numDecodeSeqs: 0, numQueryTiles: PLAN_LIMITS.maxNumBatchedTokens / 16 },
  { numSeqs: PLAN_LIMITS.maxNumSeqs, numDecodeSeqs: PLAN_LIMITS.maxNumSeqs, numQueryTiles: 0 },
].map((counts) => ({
  ...counts,
  numTokens: PLAN_LIMITS.maxNumBatchedTokens,
  numLogitRows: PLAN_LIMITS.maxNumLogitRows,
}));

/** Every instance of a kernel once, with each number of threads and bytes that it is launched with. */
function distinctLaunches(gpu: CudaGpu, dtypes: readonly FloatDType[]): KernelLaunch[] {
  const found = new Map<string, KernelLaunch>();
  for (const plan of plans(gpu, dtypes))
    for (const launch of kernelLaunches(plan, gpu)) {
      const { source, entry, defines, block, sharedBytes } = launch;
      found.set(JSON.stringify([source, entry, defines, block, sharedBytes]), launch);
    }
  return [...found.values()];
}

/** Every model in every type, and a dense one and one of experts in the recipes of smaller numbers. */
function plans(gpu: CudaGpu, dtypes: readonly FloatDType[]): Plan[] {
  const recipes = (['int8', 'int4', 'fp8', 'smoothquant'] as const).filter(
    (name) => name !== 'fp8' || gpu.computeCapability >= 89,
  );
  const inRecipe = (config: HFConfig, name: Quantization, groupSize: number | null) => {
    const quantization = quantizationRules(name, groupSize, []);
    return cudaPlan(config, 'bfloat16', gpu, { quantization });
  };
  return [
    ...configs().flatMap((config) => dtypes.map((dtype) => cudaPlan(config, dtype, gpu))),
    ...['llama2', 'gpt2'].flatMap((name) =>
      dtypes.map((dtype) => cudaPlan(loadReference(name).config, dtype, gpu, { batchInvariant: true })),
    ),
    ...recipes.map((name) => inRecipe(withFewLayers(findPreset('llama-2-7b')!.config), name, null)),
    ...recipes.filter(isOfCodes).map((name) => withStaticScales(findPreset('llama-2-7b')!.config, name, gpu)),
    ...KV_CODES.flatMap((kvDType) =>
      configsOfCodes().map((config) => cudaPlan(config, 'bfloat16', gpu, { kvDType })),
    ),
    // The reference's experts have fewer columns than a group of int4.
    ...recipes.map((name) => inRecipe(loadReference('mixtral').config, name, name === 'int4' ? 32 : null)),
  ];
}

function isOfCodes(name: Quantization): boolean {
  return quantizationRules(name, null, []).activations !== null;
}

function withStaticScales(config: HFConfig, name: Quantization, gpu: CudaGpu): Plan {
  const { activations, ...rules } = quantizationRules(name, null, []);
  const quantization = { ...rules, activations: { ...activations!, isStatic: true } };
  return cudaPlan(withFewLayers(config), 'bfloat16', gpu, { quantization });
}

/** Presets, the references' families, sizes of published models that neither has, and sizes that divide badly. */
function configs(): HFConfig[] {
  const reference = (name: string, sizes: HFConfig): HFConfig => ({
    ...loadReference(name).config,
    ...sizes,
  });
  const [, awkward] = SMALL_CONFIGS[0];
  return [
    ...presetNames().map((name) => withFewLayers(findPreset(name)!.config)),
    ...REFERENCE_NAMES.map((name) => loadReference(name).config),
    // Heads of 80 (StableLM 3B), 96 (Phi 3), 192 and 256 with a soft cap (Gemma 2 9B).
    reference('stablelm', { hidden_size: 2560, num_attention_heads: 32, num_key_value_heads: 32 }),
    reference('phi3', { hidden_size: 3072, num_attention_heads: 32, num_key_value_heads: 32 }),
    reference('llama3_gqa', { head_dim: 192, num_attention_heads: 16, num_key_value_heads: 4 }),
    reference('gemma2', {
      hidden_size: 3584,
      head_dim: 256,
      num_attention_heads: 16,
      num_key_value_heads: 8,
    }),
    // Latent attention of 512 + 64 and 192/128 (DeepSeek V2 Lite), experts with sinks (gpt-oss).
    reference('deepseek_v2', {
      hidden_size: 2048,
      num_attention_heads: 16,
      num_key_value_heads: 16,
      kv_lora_rank: 512,
      qk_nope_head_dim: 128,
      qk_rope_head_dim: 64,
      v_head_dim: 128,
      n_routed_experts: 64,
      num_experts_per_tok: 6,
      moe_intermediate_size: 1408,
    }),
    reference('gpt_oss', {
      hidden_size: 2880,
      intermediate_size: 2880,
      num_attention_heads: 64,
      num_key_value_heads: 8,
      num_local_experts: 32,
      num_experts_per_tok: 4,
    }),
    ...fc.sample(awkward, { numRuns: 2, seed: 1 }),
  ];
}

const KV_CODES = ['float8_e4m3fn', 'int8'] as const;

/** A model for each kernel that reads or writes caches of codes, and for each rule of scores. */
function configsOfCodes(): HFConfig[] {
  const presets = ['llama-2-7b', 'llama-3.1-8b', 'llama-2-70b', 'falcon-40b', 'gpt2-medium', 'gemma-7b'];
  const references = ['gemma2', 'gpt_oss', 'gpt_bigcode', 'deepseek_v2', 'bloom'];
  return [
    ...presets.map((name) => withFewLayers(findPreset(name)!.config)),
    ...references.map((name) => loadReference(name).config),
  ];
}

/** Layers are alike. */
function withFewLayers(config: HFConfig): HFConfig {
  const names = ['num_hidden_layers', 'n_layer', 'n_layers'].filter((name) => name in config);
  return { ...config, ...Object.fromEntries(names.map((name) => [name, 2])) };
}
