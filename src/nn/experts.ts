// Mixture of experts: each token goes through the few feed-forward networks that a router chooses for it.
import type { WeightPart } from '../ir/graph.ts';
import type { ActivationKind } from '../ir/ops/activation-kinds.ts';
import type { Routing } from '../ir/ops/route-experts.ts';
import { activation, add, combineExperts, groupedLinear, multiply, routeExperts } from './functional.ts';
import { Linear } from './linear.ts';
import { Module } from './module.ts';
import type { Scope, Tensor } from './tensor.ts';

/** Where one linear of every expert stands in a checkpoint. */
export interface ExpertTensors {
  readonly name: string;
  /** Rows of all experts' weights, one expert after the other. */
  readonly weight: readonly WeightPart[];
  readonly bias: readonly WeightPart[] | null;
}

interface ExpertShape {
  readonly numExperts: number;
  readonly inputs: number;
  readonly outputs: number;
}

export type ExpertPart = 'gate' | 'up' | 'down';

const HF_NAMES: Readonly<Record<ExpertPart, string>> = {
  gate: 'gate_proj',
  up: 'up_proj',
  down: 'down_proj',
};

/** Each expert has tensors of its own, `experts.<i>.<name>.weight`. */
export function separateExperts(scope: Scope, names = HF_NAMES): MixtureOfExpertsOptions['tensors'] {
  return (part, { numExperts, inputs, outputs }) => {
    const weight = Array.from({ length: numExperts }, (_, expert): WeightPart => {
      const tensor = scope.nameOf(`experts.${expert}.${names[part]}.weight`);
      const rows = { rowStart: 0, rowCount: outputs, rowStep: 1 };
      const columns = { columnStart: 0, columnCount: inputs };
      return { name: tensor, tensor, tensorShape: [outputs, inputs], transpose: false, ...rows, ...columns };
    });
    return { name: `experts.*.${names[part]}`, weight, bias: null };
  };
}

/**
 * All experts in one tensor `name` `[numExperts, inputs, rows]` and a bias `name_bias` `[numExperts, rows]`, of whose rows
 * every `step`th belongs to this linear, from `start` on.
 */
export function stackedExperts(
  scope: Scope,
  name: string,
  { numExperts, inputs, outputs }: ExpertShape,
  { start, step }: { readonly start: number; readonly step: number },
): ExpertTensors {
  const rows = { transpose: true, rowStart: start, rowCount: outputs, rowStep: step };
  const part =
    (tensor: string, tensorShape: readonly number[], columns: number) => (_: unknown, expert: number) => ({
      name: `${tensor}[${expert}]`,
      tensor,
      tensorShape,
      ...rows,
      columnStart: expert * columns,
      columnCount: columns,
    });
  const [weight, bias] = [scope.nameOf(name), scope.nameOf(`${name}_bias`)];
  const experts = Array.from({ length: numExperts });
  return {
    name: step === 1 ? name : `${name}[${start}::${step}]`,
    weight: experts.map(part(weight, [numExperts, inputs, outputs * step], inputs)),
    bias: experts.map(part(bias, [numExperts, outputs * step], 1)),
  };
}

/** One linear of every expert, applied to each token for the experts that it goes to. */
class ExpertLinear {
  readonly weight: Tensor;
  readonly bias: Tensor | null;
  readonly #numExperts: number;

  constructor(
    scope: Scope,
    { name, weight, bias }: ExpertTensors,
    { numExperts, inputs, outputs }: ExpertShape,
  ) {
    const rows = numExperts * outputs;
    this.weight = scope.parameter(`${name}.weight`, [rows, inputs], { parts: weight });
    this.bias = bias && scope.parameter(`${name}.bias`, [rows], { parts: bias });
    this.#numExperts = numExperts;
  }

  apply(x: Tensor, ids: Tensor): Tensor {
    return groupedLinear(x, this.weight, this.#numExperts, ids, this.bias);
  }
}

export interface MixtureOfExpertsOptions {
  readonly hiddenSize: number;
  /** Of each expert. */
  readonly intermediateSize: number;
  readonly numExperts: number;
  readonly routing: Routing;
  readonly router: { readonly name: string; readonly bias: boolean; readonly hasCorrection?: boolean };
  readonly tensors: (part: ExpertPart, shape: ExpertShape) => ExpertTensors;
  /** What becomes of an expert's gate and up projection, `[numTokens, numExpertsPerToken · intermediateSize]`. */
  readonly gating: (gate: Tensor, up: Tensor) => Tensor;
  /** What every token goes through beside its experts. */
  readonly shared?: Module | null;
}

/** Σ weight · down(gating(gate(x), up(x))) over a token's experts (Shazeer et al., "Sparsely-gated mixture of experts", 2017). */
export class MixtureOfExperts extends Module {
  readonly router: Linear;
  readonly correction: Tensor | null;
  readonly gate: ExpertLinear;
  readonly up: ExpertLinear;
  readonly down: ExpertLinear;
  readonly #options: MixtureOfExpertsOptions;

  constructor(scope: Scope, options: MixtureOfExpertsOptions) {
    super(scope);
    const { hiddenSize, intermediateSize, numExperts, router, tensors } = options;
    const routerScope = scope.at(router.name);
    this.router = new Linear(routerScope, { inputs: hiddenSize, outputs: numExperts, bias: router.bias });
    this.correction = router.hasCorrection
      ? routerScope.parameter('e_score_correction_bias', [numExperts])
      : null;
    const part = (name: ExpertPart, inputs: number, outputs: number): ExpertLinear => {
      const shape = { numExperts, inputs, outputs };
      return new ExpertLinear(scope, tensors(name, shape), shape);
    };
    this.gate = part('gate', hiddenSize, intermediateSize);
    this.up = part('up', hiddenSize, intermediateSize);
    this.down = part('down', intermediateSize, hiddenSize);
    this.#options = options;
  }

  protected forward(x: Tensor): Tensor {
    const { routing, gating, shared = null } = this.#options;
    const { weights, ids } = routeExperts(this.router.apply(x), this.correction, routing);
    const hidden = gating(this.gate.apply(x, ids), this.up.apply(x, ids));
    const routed = combineExperts(this.down.apply(hidden, ids), weights);
    return shared === null ? routed : add(routed, shared.apply(x));
  }
}

/** The usual gating: act(gate) · up. */
export function gatedBy(kind: ActivationKind): MixtureOfExpertsOptions['gating'] {
  return (gate, up) => multiply(activation(gate, kind), up);
}
