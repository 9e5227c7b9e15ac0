// Ops fused with the quantize that alone reads their last output: codes and scales take that output's place.
import { z } from 'zod';
import type { Attributes } from '../graph.ts';
import { defineOp, numRequiredInputs, type OpDefinition } from '../op.ts';
import { attention } from './attention.ts';
import { gatedActivation } from './gated-activation.ts';
import { quantize, quantizeAttributes } from './quantize.ts';
import { addRmsNorm, rmsNorm } from './rms-norm.ts';

/** The op's own attributes beside those of the quantize, which stand apart: both may have a `groupSize`. */
const attributes = z.looseObject({ quantize: quantizeAttributes });

/** The name of the fusion of an op that has one. */
export const quantizingName = (op: string): string => `${op}Quantize`;

/** The scales follow the operands that the op must have; an op that may have others must have scales as well. */
export function quantizing(op: OpDefinition): OpDefinition {
  const scalesAt = numRequiredInputs(op);
  const optional = op.inputs.slice(scalesAt);
  const staticScales = optional.length > 0 ? 'staticScales' : 'staticScales?';
  const isOfOp = (_: unknown, input: number): boolean => input !== scalesAt;
  const kept = op.inPlace.slice(0, -1);
  return defineOp({
    name: quantizingName(op.name),
    inputs: [...op.inputs.slice(0, scalesAt), staticScales, ...optional],
    attributes,
    isRowwise: op.isRowwise,
    inPlace: kept.length > 0 ? [...kept, [], []] : [],
    matrixInput: op.matrixInput,
    scalesInput: op.scalesInput,
    wideOutputs: [kept.length + 1],

    infer(node, { quantize: { dtype, groupSize }, ...own }) {
      const operands = node.inputs.map((_, i) => i).filter(isOfOp);
      const outputs = node.inferAs(op, operands, own as Attributes);
      const [rows, last] = outputs.at(-1)!.shape;
      const columns = last as number;
      node.check(columns % groupSize === 0, `columns must be a multiple of groupSize ${groupSize}`);
      return [
        ...outputs.slice(0, -1),
        { dtype, shape: [rows, columns] },
        { dtype: 'float32', shape: [rows, columns / groupSize] },
      ];
    },

    interpret(inputs, { quantize: format, ...own }, caches) {
      const outputs = op.interpret(inputs.filter(isOfOp), own as Attributes, caches);
      const operands = [outputs.at(-1)!, ...inputs.slice(scalesAt, scalesAt + 1)];
      return [...outputs.slice(0, -1), ...quantize.interpret(operands, format, caches)];
    },
  });
}

export const attentionQuantize = quantizing(attention);
export const rmsNormQuantize = quantizing(rmsNorm);
export const addRmsNormQuantize = quantizing(addRmsNorm);
export const gatedActivationQuantize = quantizing(gatedActivation);
