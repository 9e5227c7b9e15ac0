// Refuses a request that no plan could answer, before anything is built.
import type { ModelFacts } from '../models/model-definition.ts';
import { NeedletailError } from '../util/errors.ts';
import type { CompileRequest } from './request.ts';

export function checkRequest(request: CompileRequest, { maxPositions }: ModelFacts): void {
  const { limits, blockSize, maxModelLen, recipe, target, worldSize = 1 } = request;
  const counts: Readonly<Record<string, number>> = { ...limits, blockSize, maxModelLen };
  for (const [name, value] of Object.entries(counts)) {
    if (!Number.isSafeInteger(value) || value < 1)
      refuse(name, `${name} must be a whole number above 0, not ${value}`);
  }
  if (maxModelLen > maxPositions) {
    refuse(
      'maxModelLen',
      `--max-model-len ${maxModelLen} is more than the ${maxPositions} positions of the model`,
    );
  }
  if (recipe.batchInvariant && target.kind === 'cpu') {
    refuse(
      'batchInvariant',
      'the cpu device deals contexts to threads as the batch allows, so that results depend on it: ' +
        'leave --batch-invariant out, or use --device cuda',
    );
  }
  if (worldSize > 1) {
    refuse(
      'worldSize',
      `a plan for ${worldSize} ranks needs an all-reduce, which no device has yet; use one rank`,
    );
  }
}

function refuse(param: string, message: string): never {
  throw new NeedletailError('invalid_request', message, { param });
}
