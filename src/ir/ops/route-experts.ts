// routeExperts: which experts each token goes to, and how much each one's answer counts.
import { z } from 'zod';
import { floatsOf, floatTensor } from '../host-tensor.ts';
import { defineOp } from '../op.ts';

/** Experts are chosen from the best groups of neighbouring ones alone (DeepSeek-V2 and V3). */
const expertGroups = z.strictObject({
  numGroups: z.int().positive(),
  numSelected: z.int().positive(),
  /** A group's score: its best expert's, or the sum of its two best ones'. */
  score: z.enum(['best', 'twoBest']),
});

export const routing = z.strictObject({
  numExpertsPerToken: z.int().positive(),
  scoring: z.enum(['softmax', 'sigmoid']),
  /** The chosen experts' weights are divided by their sum. */
  normalize: z.boolean(),
  /** Multiplies the weights in the end. */
  scale: z.number(),
  groups: expertGroups.nullable(),
});

export type Routing = z.infer<typeof routing>;
type ExpertGroups = z.infer<typeof expertGroups>;

/** A sum of weights that vanishes must not divide. */
const SMALLEST_SUM = 1e-20;

/** The correction is added to the scores while experts are chosen, not to their weights. */
export const routeExperts = defineOp({
  name: 'routeExperts',
  inputs: ['logits', 'correction?'],
  attributes: routing,
  isRowwise: true,

  infer(node, { numExpertsPerToken, groups }) {
    const numExperts = node.matrix(0);
    if (node.inputs.length > 1) node.vector(1, numExperts);
    const { numGroups, numSelected } = groups ?? { numGroups: 1, numSelected: 1 };
    node.check(numExperts % numGroups === 0, `the experts must be a multiple of numGroups ${numGroups}`);
    node.check(numSelected <= numGroups, `numSelected ${numSelected} exceeds numGroups ${numGroups}`);
    const numCandidates = (numExperts / numGroups) * numSelected;
    node.check(numExpertsPerToken <= numCandidates, `${numExpertsPerToken} of ${numCandidates} experts`);
    const shape = [node.inputs[0].shape[0], numExpertsPerToken];
    return [
      { dtype: 'float32', shape },
      { dtype: 'int32', shape },
    ];
  },

  interpret([logits, correction], attributes) {
    const [numTokens, numExperts] = logits.shape;
    const { numExpertsPerToken: k } = attributes;
    const weights = floatTensor([numTokens, k]);
    const ids = new Int32Array(numTokens * k);
    for (let token = 0; token < numTokens; token++) {
      const row = floatsOf(logits).subarray(token * numExperts, (token + 1) * numExperts);
      const chosen = routeToken(row, correction ? floatsOf(correction) : null, attributes);
      weights.data.set(chosen.weights, token * k);
      ids.set(chosen.ids, token * k);
    }
    return [weights, { shape: [numTokens, k], data: ids }];
  },
});

function routeToken(
  logits: Float32Array,
  correction: Float32Array | null,
  { numExpertsPerToken, scoring, normalize, scale, groups }: Routing,
): { readonly weights: readonly number[]; readonly ids: readonly number[] } {
  const scores = scoring === 'softmax' ? softmax(logits) : Array.from(logits, (x) => 1 / (1 + Math.exp(-x)));
  const corrected = scores.map((score, i) => score + (correction?.[i] ?? 0));
  const ids = largest(groups ? withinBestGroups(corrected, groups) : corrected, numExpertsPerToken);
  const sum = ids.reduce((total, id) => total + scores[id], SMALLEST_SUM);
  const factor = normalize ? scale / sum : scale;
  return { ids, weights: ids.map((id) => scores[id] * factor) };
}

function softmax(logits: Float32Array): number[] {
  const most = Math.max(...logits);
  const powers = Array.from(logits, (x) => Math.exp(x - most));
  const sum = powers.reduce((total, x) => total + x, 0);
  return powers.map((x) => x / sum);
}

/** The scores, −∞ outside of the groups selected. */
function withinBestGroups(
  scores: readonly number[],
  { numGroups, numSelected, score }: ExpertGroups,
): number[] {
  const size = scores.length / numGroups;
  const groupScores = Array.from({ length: numGroups }, (_, group) => {
    const ordered = scores.slice(group * size, (group + 1) * size).sort((a, b) => b - a);
    return ordered[0] + (score === 'twoBest' ? (ordered[1] ?? 0) : 0);
  });
  const selected = new Set(largest(groupScores, numSelected));
  return scores.map((value, i) => (selected.has(Math.floor(i / size)) ? value : -Infinity));
}

/** Places of the `count` largest values, largest first; of equal ones the first. */
function largest(values: readonly number[], count: number): number[] {
  const order = values.map((_, i) => i).sort((a, b) => values[b] - values[a] || a - b);
  return order.slice(0, count);
}
