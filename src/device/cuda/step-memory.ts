// A step's arrays on the device, at places that never move, so that kernels' parameters and recorded steps stay valid. They are
// filled from one of two images that take turns: while a step runs, the next is written.
import type { Plan } from '../../compiler/plan.ts';
import type { Address } from '../../ffi/native-memory.ts';
import type { StepInputName } from '../../ir/graph.ts';
import { int, pointer, type StepAddresses, type StepCounts } from '../../kernels/cuda/cuda-kernel.ts';
import type { StepBatch, StepResult } from '../step.ts';
import type { CudaRuntime } from './cuda-runtime.ts';
import type { DeviceMemoryPool } from './device-memory.ts';
import { KernelLauncher } from './kernel-launcher.ts';
import type { StepPlaces } from './place-plan.ts';
import { StepImage, TOKEN_PIECE } from './step-image.ts';
import {
  COUNTS,
  layOutStep,
  TABLE_WIDTHS_AT,
  WORD,
  type StepLayout,
} from '../../kernels/cuda/step-layout.ts';
import { StreamSignal } from './stream-signal.ts';

/** Of the kernel that fills the arrays: enough threads to keep the bus to the host busy. */
const STAGE_THREADS = 256;
const STAGE_BLOCKS = 16;

export const MAX_STEPS_IN_FLIGHT = 2;

interface Slot {
  readonly image: StepImage;
  readonly stage: KernelLauncher;
  readonly ended: StreamSignal;
}

/** A step that is on its way to the device. */
export interface StagedStep {
  readonly counts: StepCounts;
  /** To be called once its last kernel is on the stream; resolves when it has ended. Throws `device_failed`. */
  end(): Promise<void>;
  /** After the end, before the step after the next is written. */
  readResults(logits: Float32Array | null): StepResult;
}

export class StepMemory implements StepPlaces {
  readonly sampling: StepPlaces['sampling'];
  readonly addresses: StepAddresses;
  readonly blockCopies: Address;
  readonly #layout: StepLayout;
  readonly #arrays: Address;
  readonly #slots: readonly Slot[];
  #nextSlot = 0;

  constructor(runtime: CudaRuntime, pool: DeviceMemoryPool, plan: Plan) {
    const layout = layOutStep(plan);
    this.#layout = layout;
    this.#arrays = pool.allocate(layout.totalWords * WORD);
    const drawn = pool.allocate(layout.columnStride * WORD);
    const at = (place: number): Address => this.#arrays + place * WORD;
    const { header, lists, sampling, queryTiles, columnStride } = layout;
    this.sampling = { columns: at(sampling), lists: at(lists), drawn, columnStride };
    this.blockCopies = at(lists);
    this.addresses = {
      numTokens: at(header + COUNTS.numTokens),
      numSeqs: at(header + COUNTS.numSeqs),
      numLogitRows: at(header + COUNTS.numLogitRows),
      numQueryTiles: at(header + COUNTS.numQueryTiles),
      queryTiles: at(queryTiles),
    };
    this.#slots = Array.from({ length: MAX_STEPS_IN_FLIGHT }, () => this.#createSlot(runtime, pool));
  }

  input(name: StepInputName, group: number): { address: Address; strideAddress: Address } {
    const { [name]: place, header } = this.#layout;
    const at = typeof place === 'number' ? place : place[group];
    return {
      address: this.#arrays + at * WORD,
      strideAddress: this.#arrays + (header + TABLE_WIDTHS_AT + group) * WORD,
    };
  }

  /** Puts a step on the stream's way to the device. The one before the last must have ended. */
  write(step: StepBatch): StagedStep {
    const { image, stage, ended } = this.#slots[this.#nextSlot];
    this.#nextSlot = (this.#nextSlot + 1) % this.#slots.length;
    const counts = image.write(step);
    stage.run(counts);
    return {
      counts,
      end: () => {
        ended.set();
        return ended.reached();
      },
      readResults: (logits) => image.readResults(logits),
    };
  }

  release(): void {
    for (const { ended } of this.#slots) ended.release();
  }

  #createSlot(runtime: CudaRuntime, pool: DeviceMemoryPool): Slot {
    const image = new StepImage(pool, this.#layout);
    const stage = new KernelLauncher(runtime, pool, {
      kind: 'kernel',
      source: 'stage-step.cu',
      entry: 'stage_step',
      defines: {},
      block: STAGE_THREADS,
      sharedBytes: 0,
      grid: () => [this.#layout.numPieces, STAGE_BLOCKS, 1],
      parameters: [
        pointer(image.address),
        pointer(this.#arrays),
        int(TOKEN_PIECE),
        pointer(this.sampling.drawn),
      ],
    });
    return { image, stage, ended: new StreamSignal(runtime, pool) };
  }
}
