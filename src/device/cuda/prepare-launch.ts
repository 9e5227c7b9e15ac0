// What a launch of the plan becomes on a GPU: kernels and products, for each of its variants. Addresses are numbers here, so
// none of it needs a GPU at hand.
import type { Launch, Plan } from '../../compiler/plan.ts';
import {
  int,
  pointer,
  type CudaGpu,
  type CudaLaunch,
  type KernelLaunch,
  type PreparedLaunch,
} from '../../kernels/cuda/cuda-kernel.ts';
import { CUDA_KERNELS } from '../../kernels/cuda/index.ts';
import { NeedletailError } from '../../util/errors.ts';
import type { LaunchConstants } from './launch-constants.ts';
import { placeOperand, type Placement, type StepPlaces } from './place-plan.ts';

const SAMPLE_THREADS = 1024;

/** Where everything lies that launches refer to. */
export interface LaunchPlaces {
  readonly plan: Plan;
  readonly placement: Placement;
  readonly step: StepPlaces;
  readonly gpu: CudaGpu;
  readonly constants: LaunchConstants;
}

export interface PreparedVariant {
  readonly maxRows: number;
  readonly launches: readonly PreparedLaunch[];
}

/** Ordered by `maxRows`; the last takes any number. */
export function prepareLaunch(launch: Launch, places: LaunchPlaces): readonly PreparedVariant[] {
  const { plan, placement, step, gpu } = places;
  const description = CUDA_KERNELS.find(({ op }) => op === launch.op);
  if (!description)
    throw new NeedletailError('bad_plan', `the cuda device has no kernel for the op ${launch.op}`);
  const place = (operand: Launch['inputs'][number]) => placeOperand(operand, plan, placement, step);
  const placed: Omit<CudaLaunch, 'kernel'> = {
    op: launch.op,
    attributes: launch.attributes,
    inputs: launch.inputs.map(place),
    outputs: launch.outputs.map(place),
    rows: launch.rows,
    addresses: step.addresses,
    workspace: placement.workspace,
    blockSize: plan.blockSize,
    gpu,
    constant: (values) => places.constants.place(values),
  };
  return launch.variants.map(({ kernel, maxRows }) => ({
    maxRows: maxRows ?? Infinity,
    launches: description.prepare({ ...placed, kernel }),
  }));
}

/** Draws a token from each row of logits. */
export function sampleLaunch({ plan, placement, step }: LaunchPlaces): KernelLaunch {
  const { id, columnStart, rowStride } = plan.logits;
  const logits = placement.arena + plan.buffers[id].offset + columnStart * 4;
  const { columns, lists, drawn, columnStride } = step.sampling;
  return {
    kind: 'kernel',
    source: 'sample.cu',
    entry: 'sample',
    defines: {},
    block: SAMPLE_THREADS,
    sharedBytes: 0,
    overlaps: true,
    grid: ({ numLogitRows }) => [numLogitRows, 1, 1],
    parameters: [
      pointer(step.addresses.numLogitRows),
      pointer(logits),
      { int64: rowStride },
      int(plan.model.vocabSize),
      pointer(columns),
      pointer(lists),
      pointer(drawn),
      int(columnStride),
    ],
  };
}
