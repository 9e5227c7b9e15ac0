// A mixture of experts on the GPU whose tokens go to the experts that the oracle chose: rounding that sends a token elsewhere
// would say nothing of the kernels. The plan runs in sections that end where experts are chosen; there the choice is replaced.
import type { BufferOperand, Launch, Plan } from '../../src/compiler/plan.ts';
import { CudaProgram } from '../../src/device/cuda/cuda-program.ts';
import type { CudaRuntime } from '../../src/device/cuda/cuda-runtime.ts';
import { DeviceMemoryPool } from '../../src/device/cuda/device-memory.ts';
import { loadWeights } from '../../src/device/cuda/load-weights.ts';
import { placePlan, type Placement } from '../../src/device/cuda/place-plan.ts';
import { StepMemory } from '../../src/device/cuda/step-memory.ts';
import type { StepBatch } from '../../src/device/step.ts';
import type { Attributes, Graph, Node } from '../../src/ir/graph.ts';
import { floatsOf, intsOf, type HostTensor } from '../../src/ir/host-tensor.ts';
import { Interpreter, type InterpreterOptions } from '../../src/ir/interpret.ts';
import { routeExperts } from '../../src/ir/ops/route-experts.ts';
import { PagedKVCaches } from '../../src/ir/paged-kv-cache.ts';
import { decodeFloats, itemSize, type FloatDType } from '../../src/tensor/dtype.ts';
import type { TensorSource } from '../../src/tensor/tensor-source.ts';
import { encode, readDevice, writeDevice } from './device-bytes.ts';

/** Larger than any score and any correction. */
const FORCE = 1000;

/** What one layer's router was given and chose. */
export interface Choice {
  readonly logits: Float32Array; // [numTokens, numExperts]
  /** Added to the scores that decide. */
  readonly correction: Float32Array | null; // [numExperts]
  readonly ids: Int32Array; // [numTokens, k]
}

/** The interpreter, telling each layer's choice beside the logits. */
export class ExpertOracle {
  readonly #interpreter: Interpreter;
  readonly #routers: readonly Node[];

  constructor(graph: Graph, options: InterpreterOptions) {
    const routers = graph.nodes.filter(({ op }) => op === 'routeExperts');
    const outputs = routers.flatMap(({ inputs, outputs: [, ids] }, i) => [
      { name: `router ${i}`, value: inputs[0] },
      { name: `experts ${i}`, value: ids },
      ...(inputs.length > 1 ? [{ name: `correction ${i}`, value: inputs[1] }] : []),
    ]);
    this.#routers = routers;
    this.#interpreter = new Interpreter({ ...graph, outputs: [...graph.outputs, ...outputs] }, options);
  }

  run(step: StepBatch): Choice[] {
    const values = this.#interpreter.run(step);
    return this.#routers.map((_, i) => ({
      logits: floatsOf(values.get(`router ${i}`)!),
      correction: (values.get(`correction ${i}`)?.data as Float32Array | undefined) ?? null,
      ids: intsOf(values.get(`experts ${i}`)!),
    }));
  }

  /** How much less the experts `ids` score than the oracle's own: the largest sum over a token's. */
  scoreGap(router: number, { logits, correction, ids: best }: Choice, ids: Int32Array): number {
    const { attributes } = this.#routers[router];
    const k = Number(attributes['numExpertsPerToken']);
    const numExperts = (logits.length * k) / best.length;
    const scores = scoresOf(logits, numExperts, attributes['scoring'] === 'softmax').map((row) =>
      row.map((score, expert) => score + (correction?.[expert] ?? 0)),
    );
    const total = (chosen: Int32Array, token: number): number =>
      chosen.subarray(token * k, (token + 1) * k).reduce((sum, id) => sum + scores[token][id], 0);
    return Math.max(...scores.map((_, token) => Math.abs(total(best, token) - total(ids, token))));
  }
}

export class ForcedExperts {
  readonly #runtime: CudaRuntime;
  readonly #pool: DeviceMemoryPool;
  readonly #plan: Plan;
  readonly #placement: Placement;
  readonly #memory: StepMemory;
  readonly #sections: readonly { readonly program: CudaProgram; readonly last: Launch }[];

  private constructor(runtime: CudaRuntime, pool: DeviceMemoryPool, plan: Plan, placement: Placement) {
    this.#runtime = runtime;
    this.#pool = pool;
    this.#plan = plan;
    this.#placement = placement;
    this.#memory = new StepMemory(runtime, pool, plan);
    this.#sections = sectionsOf(plan).map((launches) => ({
      program: new CudaProgram(runtime, pool, { ...plan, launches }, placement, this.#memory),
      last: launches.at(-1)!,
    }));
  }

  static async load(runtime: CudaRuntime, plan: Plan, source: TensorSource, numBlocks: number) {
    const pool = new DeviceMemoryPool(runtime);
    const blocks = plan.kvCacheGroups.map(() => numBlocks);
    const placement = placePlan(plan, blocks, pool);
    await loadWeights(plan, placement, source, { numBlocks: blocks }, runtime);
    return new ForcedExperts(runtime, pool, plan, placement);
  }

  /** Logits under the choices of `forced`, one for each router; `free` is what the GPU would have chosen. */
  run(
    step: StepBatch,
    forced: readonly Choice[],
  ): { readonly logits: Float32Array; readonly free: Int32Array[] } {
    const { counts } = this.#memory.write(step);
    const free: Int32Array[] = [];
    for (const { program, last } of this.#sections) {
      program.run(counts);
      if (last.op === 'routeExperts') free.push(this.#replace(last, step.numTokens, forced[free.length].ids));
    }
    return { logits: this.#read(this.#plan.logits, step.logitRows.length), free };
  }

  dispose(): void {
    for (const { program } of this.#sections) program.release();
    this.#memory.release();
    this.#pool.freeAll();
  }

  #replace({ inputs, outputs, attributes }: Launch, numTokens: number, ids: Int32Array): Int32Array {
    const [weightsAt, idsAt] = outputs as BufferOperand[];
    const logits = this.#read(inputs[0] as BufferOperand, numTokens);
    const free = this.#readInts(idsAt, numTokens);
    const chosen = chooseForced(logits, ids, attributes);
    this.#write(weightsAt, (dtype) => encode(dtype as FloatDType, floatsOf(chosen[0])));
    this.#write(idsAt, () => new Uint8Array(intsOf(chosen[1]).slice().buffer));
    return free;
  }

  #place({ id, columnStart, columns, rowStride }: BufferOperand) {
    const { offset, dtype } = this.#plan.buffers[id];
    if (columnStart !== 0 || columns !== rowStride) throw new Error('a view is not read whole');
    return { address: this.#placement.arena + offset, dtype, rowBytes: columns * itemSize(dtype) };
  }

  #read(operand: BufferOperand, rows: number): Float32Array {
    const { address, dtype, rowBytes } = this.#place(operand);
    return decodeFloats(dtype as FloatDType, readDevice(this.#runtime, address, rows * rowBytes));
  }

  #readInts(operand: BufferOperand, rows: number): Int32Array {
    const { address, rowBytes } = this.#place(operand);
    return new Int32Array(readDevice(this.#runtime, address, rows * rowBytes).buffer);
  }

  #write(operand: BufferOperand, encoded: (dtype: string) => Uint8Array): void {
    const { address, dtype } = this.#place(operand);
    writeDevice(this.#runtime, address, encoded(dtype));
  }
}

/** Of each token: its logits' softmax or sigmoids. */
function scoresOf(logits: Float32Array, numExperts: number, isSoftmax: boolean): number[][] {
  return Array.from({ length: logits.length / numExperts }, (_, token) => {
    const row = Array.from(logits.subarray(token * numExperts, (token + 1) * numExperts));
    if (!isSoftmax) return row.map((x) => 1 / (1 + Math.exp(-x)));
    const powers = row.map((x) => Math.exp(x - Math.max(...row)));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((x) => x / sum);
  });
}

function sectionsOf({ launches }: Plan): Launch[][] {
  const sections: Launch[][] = [[]];
  for (const launch of launches) {
    sections.at(-1)!.push(launch);
    if (launch.op === 'routeExperts') sections.push([]);
  }
  return sections;
}

/** The op's own definition, each token's experts made to win by a correction, which no weight shows. */
function chooseForced(logits: Float32Array, ids: Int32Array, routing: Attributes): readonly HostTensor[] {
  const k = Number(routing['numExpertsPerToken']);
  const numTokens = ids.length / k;
  const numExperts = logits.length / numTokens;
  const weights = new Float32Array(ids.length);
  const chosen = new Int32Array(ids.length);
  for (let token = 0; token < numTokens; token++) {
    const correction = new Float32Array(numExperts);
    for (const id of ids.subarray(token * k, (token + 1) * k)) correction[id] = FORCE;
    const row = logits.slice(token * numExperts, (token + 1) * numExperts);
    const [rowWeights, rowIds] = routeExperts.interpret(
      [
        { shape: [1, numExperts], data: row },
        { shape: [numExperts], data: correction },
      ],
      routing,
      new PagedKVCaches([], 1, []),
    );
    weights.set(floatsOf(rowWeights), token * k);
    chosen.set(intsOf(rowIds), token * k);
  }
  return [
    { shape: [numTokens, k], data: weights },
    { shape: [numTokens, k], data: chosen },
  ];
}
