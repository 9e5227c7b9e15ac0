// What a launch of a plan must yield: its op's own definition, applied to the launch's operands.
import type { BufferOperand, Launch, Operand } from '../../compiler/plan.ts';
import { TOKEN, type HostTensor } from '../../ir/host-tensor.ts';
import { OPS } from '../../ir/ops/index.ts';
import type { PagedKVCaches } from '../../ir/paged-kv-cache.ts';
import { stepInput } from '../../ir/step-inputs.ts';
import type { StepBatch } from '../step.ts';

/** Where a launch's operands are. */
export interface LaunchSurroundings {
  readonly step: StepBatch;
  /** By their ids. */
  readonly weights: readonly HostTensor[];
  readonly caches: PagedKVCaches;
  /** The rows that the step fills of a buffer. */
  readonly readBuffer: (operand: BufferOperand) => HostTensor;
}

export function interpretLaunch(launch: Launch, surroundings: LaunchSurroundings): readonly HostTensor[] {
  const op = OPS.get(launch.op)!;
  // Tables of angles follow the op's own operands; the attributes say the same.
  const operands = launch.inputs.slice(0, op.inputs.length).filter(({ kind }) => kind !== 'none');
  const inputs = operands.map((operand) => readOperand(operand, surroundings));
  return op.interpret(inputs, launch.attributes, surroundings.caches);
}

function readOperand(operand: Operand, { step, weights, readBuffer }: LaunchSurroundings): HostTensor {
  switch (operand.kind) {
    case 'buffer':
      return readBuffer(operand);
    case 'weight':
      return weights[operand.id];
    case 'input':
      return stepInput(step, operand.name, operand.group);
    case 'kvCache':
      return TOKEN;
    case 'ropeTable':
    case 'none':
      throw new Error(`a launch cannot read an operand of kind ${operand.kind}`);
  }
}
