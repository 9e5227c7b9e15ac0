// Times attention on the GPU, alone, in the device's own launch path, against memory rates measured in the same run.
// node --import tsx bench/micro/cuda-attention.bench.ts [decode|prefill]… [mha|gqa4|gqa8|hd64|…]… [bfloat16|fp8|int8]…
import { pathToFileURL } from 'node:url';
import { measureRoofs, memoryRoof } from '../../src/bench/cuda/roofs.ts';
import { PLAN_FORMAT_VERSION, type Launch, type Plan } from '../../src/compiler/plan.ts';
import { CudaDevice } from '../../src/device/cuda/cuda-device.ts';
import { CudaProgram } from '../../src/device/cuda/cuda-program.ts';
import type { CudaRuntime } from '../../src/device/cuda/cuda-runtime.ts';
import { DeviceMemoryPool } from '../../src/device/cuda/device-memory.ts';
import { KernelLauncher } from '../../src/device/cuda/kernel-launcher.ts';
import { placePlan } from '../../src/device/cuda/place-plan.ts';
import { StepMemory } from '../../src/device/cuda/step-memory.ts';
import type { StepBatch } from '../../src/device/step.ts';
import { kvHeadBytes, type KVCacheDType } from '../../src/tensor/dtype.ts';
import { stepBatch } from '../../test/support/step-batch.ts';

interface Shape {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly valueHeadDim: number;
  readonly isLatent?: boolean;
}

interface CachedShape extends Shape {
  readonly dtype: KVCacheDType;
}

const same = (numHeads: number, numKvHeads: number, headDim: number): Shape => ({
  ...{ numHeads, numKvHeads, headDim },
  valueHeadDim: headDim,
});

const SHAPES: Readonly<Record<string, Shape>> = {
  mha: same(32, 32, 128),
  gqa4: same(32, 8, 128),
  gqa8: same(64, 8, 128),
  hd64: same(32, 8, 64),
  hd80: same(32, 32, 80),
  hd96: same(32, 32, 96),
  hd112: same(16, 16, 112),
  hd256: same(16, 8, 256),
  hd192: { numHeads: 16, numKvHeads: 16, headDim: 192, valueHeadDim: 128 },
  mla: { numHeads: 16, numKvHeads: 1, headDim: 64, valueHeadDim: 512, isLatent: true },
  mla128: { numHeads: 128, numKvHeads: 1, headDim: 64, valueHeadDim: 512, isLatent: true },
};
/** Types of the cache. */
const KV_TYPES = { bfloat16: 'bfloat16', fp8: 'float8_e4m3fn', int8: 'int8' } as const;
const DECODE_DEFAULT = ['mha', 'gqa4', 'gqa8'];
const BATCHES = [1, 8, 64, 128, 256];
const CONTEXTS = [128, 1024, 4096];
/** Sequences, tokens of each in the step, and in its cache before. */
const PREFILLS = [
  [1, 128, 0],
  [1, 1024, 0],
  [1, 2048, 0],
  [1, 4096, 0],
  [8, 512, 0],
  [32, 64, 0],
  [1, 512, 3584],
] as const;
const BLOCK_SIZE = 16;
const MAX_CACHE_BYTES = 40e9;
/** Caches of so many bytes are gone through before one is read again. */
const COLD_BYTES = 1e9;
/** Replays are timed for about so long. */
const TIMED_MS = 12;

export async function main(args: readonly string[]): Promise<void> {
  const kinds = ['decode', 'prefill'].filter((kind) => args.includes(kind));
  const names = args.filter((name) => name in SHAPES);
  const types = Object.entries(KV_TYPES).filter(([name]) => args.includes(name));
  const dtypes = types.length > 0 ? types.map(([, dtype]) => dtype) : (['bfloat16'] as const);
  const device = await CudaDevice.open();
  const bench = new AttentionBench(device.runtime);
  console.log(`${device.description}, ${device.target.arch}`);
  const readTBps = memoryRoof(measureRoofs(device)) / 1e12;
  console.log(`read roof: ${readTBps.toFixed(2)} TB/s`);
  for (const kind of kinds.length > 0 ? kinds : ['decode', 'prefill'])
    for (const name of names.length > 0 ? names : DECODE_DEFAULT)
      for (const dtype of dtypes) {
        if (kind === 'decode') bench.decodes({ ...SHAPES[name], dtype }, readTBps);
        else bench.prefills({ ...SHAPES[name], dtype });
      }
  await device.dispose();
}

class AttentionBench {
  readonly #runtime: CudaRuntime;
  constructor(runtime: CudaRuntime) {
    this.#runtime = runtime;
  }

  decodes(shape: CachedShape, readTBps: number): void {
    console.log(
      `\ndecode ${JSON.stringify(shape)}\n| batch | context | µs | TB/s | of read roof |\n|-|-|-|-|-|`,
    );
    for (const batch of BATCHES)
      for (const context of CONTEXTS) {
        const bytes = batch * context * rowBytes(shape);
        if (bytes > MAX_CACHE_BYTES) continue;
        const ms = this.#launchMs(shape, batch, 1, context - 1, bytes);
        const rate = bytes / ms / 1e9;
        const share = `${((100 * rate) / readTBps).toFixed(0)} %`;
        console.log(`| ${batch} | ${context} | ${(ms * 1e3).toFixed(1)} | ${rate.toFixed(2)} | ${share} |`);
      }
  }

  prefills(shape: CachedShape): void {
    console.log(
      `\nprefill ${JSON.stringify(shape)}\n| sequences | tokens | prefix | µs | TFLOP/s |\n|-|-|-|-|-|`,
    );
    for (const [numSeqs, numTokens, numCached] of PREFILLS) {
      const bytes = numSeqs * (numTokens + numCached) * rowBytes(shape);
      const ms = this.#launchMs(shape, numSeqs, numTokens, numCached, bytes);
      const { numHeads, headDim, valueHeadDim, isLatent = false } = shape;
      const pairs = numSeqs * numTokens * (numCached + (numTokens + 1) / 2);
      const flops = 2 * pairs * numHeads * (headDim + (isLatent ? 2 : 1) * valueHeadDim);
      const cells = [numSeqs, numTokens, numCached, (ms * 1e3).toFixed(1), (flops / ms / 1e9).toFixed(0)];
      console.log(`| ${cells.join(' | ')} |`);
    }
  }

  /** Milliseconds of one layer's attention. */
  #launchMs(
    shape: CachedShape,
    numSeqs: number,
    numTokens: number,
    numCached: number,
    cacheBytes: number,
  ): number {
    const numLayers = Math.min(32, Math.max(4, Math.ceil(COLD_BYTES / cacheBytes)));
    const step = scatteredStep(numSeqs, numTokens, numCached);
    const withLayers = this.#stepMs(attentionPlan(shape, step, numLayers), step);
    const without = this.#stepMs(attentionPlan(shape, step, 0), step);
    return (withLayers - without) / numLayers;
  }

  #stepMs(plan: Plan, step: StepBatch): number {
    const pool = new DeviceMemoryPool(this.#runtime);
    const blocksPerSeq = step.groups[0].maxBlocksPerSeq;
    const placement = placePlan(plan, [step.numSeqs * blocksPerSeq], pool);
    for (const { keys, keyBlockBytes, valueBlockBytes } of placement.caches)
      this.#fillRandom(pool, keys, step.numSeqs * blocksPerSeq * (keyBlockBytes + valueBlockBytes));
    this.#fillRandom(pool, placement.arena, plan.arenaBytes);
    const memory = new StepMemory(this.#runtime, pool, plan);
    const program = new CudaProgram(this.#runtime, pool, plan, placement, memory);
    const { counts } = memory.write(step);
    const ms = this.#time(() => program.run(counts));
    program.release();
    memory.release();
    pool.freeAll();
    return ms;
  }

  /** Milliseconds of `run`, on average over a while. */
  #time(run: () => void): number {
    const { driver, stream } = this.#runtime;
    const timed = (times: number): number => {
      driver.synchronize(stream);
      const start = performance.now();
      for (let i = 0; i < times; i++) run();
      driver.synchronize(stream);
      return (performance.now() - start) / times;
    };
    timed(3);
    const times = Math.ceil(TIMED_MS / 2 / timed(2));
    return Math.min(timed(times), timed(times));
  }

  #fillRandom(pool: DeviceMemoryPool, address: number, bytes: number): void {
    const launcher = new KernelLauncher(this.#runtime, pool, {
      kind: 'kernel',
      source: '../../../bench/micro/fill-random.cu',
      entry: 'fill_random',
      defines: {},
      block: 512,
      sharedBytes: 0,
      grid: () => [1056, 1, 1],
      parameters: [
        { pointer: address },
        { int64: Math.floor(bytes / 16) },
        // Of two bfloat16: sign, the exponent's low bit, mantissa; exponents of 2⁻² and 2⁻¹. As codes they are numbers too.
        ...[{ int32: 0x80bf80bf | 0 }, { int32: 0x3e803e80 }],
      ],
    });
    launcher.run(NO_COUNTS);
  }
}

const NO_COUNTS = { numTokens: 0, numSeqs: 0, numLogitRows: 0, numDecodeSeqs: 0, numQueryTiles: 0 };

/** Bytes of a token's keys and values in one layer. */
function rowBytes({ numKvHeads, headDim, valueHeadDim, dtype }: CachedShape): number {
  return numKvHeads * (kvHeadBytes(headDim, dtype) + kvHeadBytes(valueHeadDim, dtype));
}

/** Sequences whose blocks lie all over the cache. */
function scatteredStep(numSeqs: number, numTokens: number, numCached: number): StepBatch {
  const perSeq = Math.ceil((numCached + numTokens) / BLOCK_SIZE);
  const total = numSeqs * perSeq;
  const stride = [7919, 104729, 3].find((prime) => total % prime !== 0)!;
  const chunks = Array.from({ length: numSeqs }, (_, seq) => ({
    tokenIds: new Array<number>(numTokens).fill(0),
    numCached,
    blocks: Array.from({ length: perSeq }, (_, i) => ((seq * perSeq + i) * stride) % total),
  }));
  return { ...stepBatch(chunks, BLOCK_SIZE), returnLogits: false };
}

/** A plan of nothing but attention, in bfloat16, over `numLayers` caches. */
function attentionPlan(shape: CachedShape, step: StepBatch, numLayers: number): Plan {
  const { numKvHeads, headDim, valueHeadDim, dtype } = shape;
  const layers = Array.from({ length: numLayers }, (_, layer) => ({
    ...{ layer, window: null, dtype, numKvHeads },
    ...{ keyHeadDim: headDim, valueHeadDim },
  }));
  const numPlaces = Math.ceil(step.numSeqs / 32) * 32;
  return {
    header: {
      ...{ formatVersion: PLAN_FORMAT_VERSION, writtenBy: '', target: { kind: 'cuda', arch: '' } },
      ...{ recipe: '', checkpointHash: null, rank: 0, worldSize: 1 },
    },
    model: { modelType: '', vocabSize: 16, hiddenSize: 0, numLayers, maxModelLen: 8192, numParameters: 0 },
    limits: {
      maxNumBatchedTokens: Math.max(step.numTokens, step.numSeqs),
      maxNumSeqs: numPlaces,
      maxNumLogitRows: numPlaces,
    },
    blockSize: BLOCK_SIZE,
    weights: [],
    ropeTables: [],
    kvCacheGroups: [{ index: 0, window: null, layers, bytesPerToken: 0 }],
    ...attentionBuffers(shape, step),
    workspaceBytes: 2 ** 28,
    activationDType: 'bfloat16',
    launches: layers.map(({ layer }) => attentionLaunch(shape, layer)),
    logits: { kind: 'buffer', id: 3, columnStart: 0, columns: 16, rowStride: 16 },
    outputs: [],
  };
}

/** Columns of queries, of latent queries, and of results: buffers 0 to 2. */
function columnsOf({ numHeads, headDim, valueHeadDim }: Shape): readonly number[] {
  return [numHeads * headDim, numHeads * valueHeadDim, numHeads * valueHeadDim];
}

/** These, and behind them logits for sampling, each where it can be copied in pieces. */
function attentionBuffers(
  shape: Shape,
  { numTokens, numSeqs }: StepBatch,
): Pick<Plan, 'buffers' | 'arenaBytes'> {
  const align = (bytes: number): number => 256 * Math.ceil(bytes / 256);
  const columns = columnsOf(shape);
  const bytes = columns.map((count) => numTokens * count * 2);
  const buffers: Plan['buffers'] = columns.map((count, id) => ({
    ...{ id, name: '', dtype: 'bfloat16' as const, shape: ['numTokens', count] as const },
    ...{ offset: align(bytes.slice(0, id).reduce((sum, b) => sum + b, 0)), bytes: bytes[id] },
  }));
  const last = buffers[2];
  const offset = align(last.offset + last.bytes);
  const logits = { id: 3, name: '', dtype: 'float32', shape: ['numLogitRows', 16] } as const;
  const logitsBytes = numSeqs * 16 * 4;
  return {
    buffers: [...buffers, { ...logits, offset, bytes: logitsBytes }],
    arenaBytes: offset + logitsBytes,
  };
}

function attentionLaunch(shape: Shape, layer: number): Launch {
  const { numHeads, numKvHeads, headDim, valueHeadDim, isLatent = false } = shape;
  const columns = columnsOf(shape);
  const operand = (id: number) => ({
    ...{ kind: 'buffer' as const, id, columnStart: 0, columns: columns[id], rowStride: columns[id] },
  });
  const arrays = (['blockTables', 'cuSeqlensQ', 'contextLens'] as const).map((name) => ({
    ...{ kind: 'input' as const, name, group: 0 },
  }));
  const none = { window: null, softcap: null, alibiSlopes: null };
  const attributes = { numHeads, numKvHeads, headDim, valueHeadDim, scale: 0.1, ...(isLatent ? {} : none) };
  return {
    op: isLatent ? 'latentAttention' : 'attention',
    label: '',
    inputs: [operand(0), { kind: 'kvCache', layer }, ...arrays, ...(isLatent ? [operand(1)] : [])],
    outputs: [operand(2)],
    attributes: { layer, ...attributes },
    variants: [{ kernel: 'tensor_cores', maxRows: null }],
    rows: 'numTokens',
  };
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) await main(process.argv.slice(2));
