// Every kernel that plans ask for, prepared for a GPU that need not be there: addresses are made up.
import { compile } from '../../src/compiler/compile.ts';
import type { Plan } from '../../src/compiler/plan.ts';
import type { CompileRecipe } from '../../src/compiler/request.ts';
import { LaunchConstants } from '../../src/device/cuda/launch-constants.ts';
import { prepareLaunch, sampleLaunch, type LaunchPlaces } from '../../src/device/cuda/prepare-launch.ts';
import { placePlan } from '../../src/device/cuda/place-plan.ts';
import type { CudaGpu, KernelLaunch } from '../../src/kernels/cuda/cuda-kernel.ts';
import { CUDA_KERNELS } from '../../src/kernels/cuda/index.ts';
import type { HFConfig } from '../../src/models/model-definition.ts';
import { findModel } from '../../src/models/registry.ts';
import type { FloatDType } from '../../src/tensor/dtype.ts';

/** Far from zero and well aligned, as what the driver gives. */
const FIRST_ADDRESS = 2 ** 33;

/** As far as plans depend on it: H100 and H200. */
export const HOPPER: CudaGpu = {
  computeCapability: 90,
  numMultiprocessors: 132,
  maxSharedMemoryPerBlock: 227 * 1024,
};

export const PLAN_LIMITS = { maxNumBatchedTokens: 8192, maxNumSeqs: 256, maxNumLogitRows: 512 };

export function cudaPlan(
  config: HFConfig,
  dtype: FloatDType,
  gpu: CudaGpu,
  changes: Partial<CompileRecipe> = {},
): Plan {
  const definition = findModel(config);
  return compile({
    definition,
    config,
    tensors: null,
    checkpointHash: null,
    target: { kind: 'cuda', arch: `sm_${gpu.computeCapability}` },
    recipe: {
      weightDType: dtype,
      quantization: null,
      kvDType: dtype,
      activationPrecision: 'auto',
      batchInvariant: false,
      ...changes,
    },
    limits: PLAN_LIMITS,
    blockSize: 16,
    maxModelLen: Math.min(8192, definition.facts(config).maxPositions),
    kernels: CUDA_KERNELS,
  });
}

/** All kernels that the plan's launches may become, sampling included. */
export function kernelLaunches(plan: Plan, gpu: CudaGpu): readonly KernelLaunch[] {
  const places = madeUpPlaces(plan, gpu);
  const prepared = plan.launches.flatMap((launch) =>
    prepareLaunch(launch, places).flatMap(({ launches }) => launches),
  );
  return [...prepared.filter((launch) => launch.kind === 'kernel'), sampleLaunch(places)];
}

/** Bytes that the plan's launches ask for beside what the ledger counts. */
export function constantBytes(plan: Plan, gpu: CudaGpu): number {
  let sum = 0;
  const places = madeUpPlaces(plan, gpu, (bytes) => (sum += bytes));
  for (const launch of plan.launches) prepareLaunch(launch, places);
  return sum;
}

function madeUpPlaces(
  plan: Plan,
  gpu: CudaGpu,
  onConstant: (bytes: number) => void = () => undefined,
): LaunchPlaces {
  let next = FIRST_ADDRESS;
  const allocate = (bytes: number): number => {
    const address = next;
    next += Math.ceil((bytes + 1) / 256) * 256;
    return address;
  };
  const word = (): number => allocate(4);
  const blocks = plan.kvCacheGroups.map(() => 1024);
  return {
    plan,
    placement: placePlan(plan, blocks, { allocate }),
    step: {
      addresses: {
        numTokens: word(),
        numSeqs: word(),
        numLogitRows: word(),
        numQueryTiles: word(),
        queryTiles: word(),
      },
      sampling: { columns: word(), lists: word(), drawn: word(), columnStride: 8 },
      input: () => ({ address: word(), strideAddress: word() }),
    },
    gpu,
    constants: new LaunchConstants(({ byteLength }) => {
      onConstant(byteLength);
      return allocate(byteLength);
    }),
  };
}
