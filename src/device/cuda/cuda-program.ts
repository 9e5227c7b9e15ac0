// A plan's launches made ready on one GPU: run one by one, or for decodes recorded once per batch size and replayed.
import type { Launch, Plan } from '../../compiler/plan.ts';
import type { Address } from '../../ffi/native-memory.ts';
import type { KernelLaunch, StepCounts } from '../../kernels/cuda/cuda-kernel.ts';
import { CUBLASLT_WORKSPACE_BYTES } from '../../kernels/cuda/linear.ts';
import type { CudaRuntime } from './cuda-runtime.ts';
import type { DeviceMemoryPool } from './device-memory.ts';
import { KernelLauncher } from './kernel-launcher.ts';
import { LaunchConstants } from './launch-constants.ts';
import { MatmulLauncher } from './matmul-launcher.ts';
import type { Placement } from './place-plan.ts';
import { prepareLaunch, sampleLaunch, type LaunchPlaces } from './prepare-launch.ts';
import type { StepMemory } from './step-memory.ts';

/** Decode batches are recorded for these sizes, and for multiples of the last; a step takes the next larger. */
const BUCKETS = [1, 2, 4, 8, 16, 24, 32];

interface Launcher {
  run(counts: StepCounts): void;
}

/** One launch of the plan: a list of launchers for each of its variants. */
interface PlannedLaunch {
  readonly rows: Launch['rows'];
  readonly variants: readonly { readonly maxRows: number; readonly launchers: readonly Launcher[] }[];
}

/** A recorded step, or that its size was met once: kernels load at their first launch, which must not be recorded. */
type Recording = { readonly graph: Address | null };

export class CudaProgram {
  readonly #runtime: CudaRuntime;
  readonly #pool: DeviceMemoryPool;
  readonly #plan: Plan;
  readonly #launches: readonly PlannedLaunch[];
  readonly #sample: Launcher;
  readonly #matmuls: MatmulLauncher[] = [];
  readonly #recordings = new Map<number, Recording>();

  constructor(
    runtime: CudaRuntime,
    pool: DeviceMemoryPool,
    plan: Plan,
    placement: Placement,
    step: StepMemory,
  ) {
    this.#runtime = runtime;
    this.#pool = pool;
    this.#plan = plan;
    const constants = new LaunchConstants((bytes) => pool.upload(bytes));
    const places = { plan, placement, step, gpu: runtime.gpu, constants };
    this.#launches = plan.launches.map((launch, i) => this.#prepare(launch, places, i > 0));
    this.#sample = this.#kernel(sampleLaunch(places));
  }

  /** Puts the whole step on the stream, sampling included. */
  run(counts: StepCounts): void {
    const bucket = this.#bucketOf(counts);
    if (bucket === null) return this.#enqueue(counts);
    const counted = {
      ...counts,
      numTokens: bucket,
      numSeqs: bucket,
      numLogitRows: bucket,
      numDecodeSeqs: bucket,
    };
    const recording = this.#recordings.get(bucket);
    if (!recording) {
      this.#recordings.set(bucket, { graph: null });
      return this.#enqueue(counted);
    }
    const graph = recording.graph ?? this.#record(counted);
    this.#recordings.set(bucket, { graph });
    this.#runtime.driver.launchGraph(graph, this.#runtime.stream);
  }

  release(): void {
    for (const { graph } of this.#recordings.values())
      if (graph !== null) this.#runtime.driver.destroyGraph(graph);
    for (const matmul of this.#matmuls) matmul.release();
  }

  #enqueue(counts: StepCounts): void {
    for (const { rows, variants } of this.#launches) {
      const variant = variants.find(({ maxRows }) => counts[rows] <= maxRows)!;
      for (const launcher of variant.launchers) launcher.run(counts);
    }
    this.#sample.run(counts);
  }

  #record(counts: StepCounts): Address {
    const { driver, stream } = this.#runtime;
    driver.beginCapture(stream);
    try {
      this.#enqueue(counts);
    } catch (error) {
      driver.destroyGraph(driver.endCapture(stream));
      throw error;
    }
    return driver.endCapture(stream);
  }

  /** Null for a step that is not one token of each sequence. */
  #bucketOf({ numSeqs, numDecodeSeqs, numLogitRows }: StepCounts): number | null {
    if (numDecodeSeqs !== numSeqs || numLogitRows > numSeqs || numSeqs === 0) return null;
    const last = BUCKETS.at(-1)!;
    const bucket = BUCKETS.find((size) => size >= numSeqs) ?? Math.ceil(numSeqs / last) * last;
    const { maxNumSeqs, maxNumBatchedTokens, maxNumLogitRows } = this.#plan.limits;
    return bucket <= Math.min(maxNumSeqs, maxNumBatchedTokens, maxNumLogitRows) ? bucket : null;
  }

  /** A step's first launch may not overlap: others read the step's arrays before they wait, and rely on it. */
  #prepare(launch: Launch, places: LaunchPlaces, mayOverlap: boolean): PlannedLaunch {
    const variants = prepareLaunch(launch, places).map(({ maxRows, launches }) => ({
      maxRows,
      launchers: launches.map((prepared) =>
        prepared.kind === 'kernel'
          ? this.#kernel({ ...prepared, overlaps: mayOverlap && prepared.overlaps === true })
          : this.#matmul(prepared, places.placement),
      ),
    }));
    return { rows: launch.rows, variants };
  }

  #kernel(launch: KernelLaunch): Launcher {
    return new KernelLauncher(this.#runtime, this.#pool, launch);
  }

  #matmul(launch: ConstructorParameters<typeof MatmulLauncher>[1], placement: Placement): Launcher {
    // What is beyond belongs to the kernels around the product.
    const bytes = Math.min(CUBLASLT_WORKSPACE_BYTES, this.#plan.workspaceBytes);
    const workspace = { address: placement.workspace, bytes };
    const matmul = new MatmulLauncher(this.#runtime, launch, workspace);
    this.#matmuls.push(matmul);
    return matmul;
  }
}
