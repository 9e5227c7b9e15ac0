// Binds every parameter to tensors of the checkpoint at hand: published names tried in order, shapes checked, and
// nothing of the checkpoint left over that the model does not know.
import type { Graph, WeightPart } from '../../ir/graph.ts';
import type { HFConfig, ModelDefinition } from '../../models/model-definition.ts';
import type { CompileRequest } from '../request.ts';
import { formatShape, shapesEqual } from '../../tensor/shape.ts';
import {
  inputScaleTensorName,
  scaleTensorName,
  type QuantizedFacts,
  type TensorCatalog,
} from '../../tensor/tensor-source.ts';
import { scaleColumns } from '../../tensor/weight-format.ts';
import { NeedletailError } from '../../util/errors.ts';

/** Tensor names that an error lists before it only counts. */
const MAX_LISTED = 5;

/** With `tensors: null` the canonical names stand, as if the checkpoint had exactly what the model asks for. */
export function bindTensors(
  graph: Graph,
  { definition, config, tensors }: Pick<CompileRequest, 'definition' | 'config' | 'tensors'>,
): Graph {
  if (tensors === null) return graph;
  const binding = new Binding(graph, definition, config, tensors);
  const parameters = graph.parameters.map((parameter) => ({
    ...parameter,
    parts: parameter.parts.map((part) => binding.bind(part)),
  }));
  binding.check();
  return { ...graph, parameters };
}

/** Collects what is found and what is wrong (once, though several weights be cut from it): one error tells all. */
class Binding {
  readonly #definition: ModelDefinition;
  readonly #config: HFConfig;
  readonly #tensors: TensorCatalog;
  readonly #canonicalNames: ReadonlySet<string>;
  readonly #claimed = new Set<string>();
  readonly #missing = new Set<string>();
  readonly #misshapen = new Set<string>();

  constructor(graph: Graph, definition: ModelDefinition, config: HFConfig, tensors: TensorCatalog) {
    this.#definition = definition;
    this.#config = config;
    this.#tensors = tensors;
    const parts = graph.parameters.flatMap((parameter) => parameter.parts);
    this.#canonicalNames = new Set(parts.map((part) => part.tensor));
  }

  bind(part: WeightPart): WeightPart {
    const names = this.#publishedNames(part.tensor);
    const present = names.filter((name) => this.#tensors.has(name));
    // Further copies of a tensor (a tied lm_head stored all the same) belong to it as well.
    for (const name of present) this.#claimed.add(name);
    const [tensor] = present;
    if (tensor === undefined) {
      this.#missing.add(describeMissing(part, names));
      return part;
    }
    const { quantized } = this.#tensors.get(tensor)!;
    if (quantized) return this.#bindCodes(part, tensor, quantized);
    this.#checkShape(tensor, part.tensorShape);
    return { ...part, tensor };
  }

  /** Codes are never stored transposed, and have scales beside them. */
  #bindCodes(part: WeightPart, tensor: string, formats: QuantizedFacts): WeightPart {
    const bound = { ...(part.transpose ? turned(part) : part), tensor };
    const { weights, activations, inputOrder } = formats;
    this.#checkShape(tensor, bound.tensorShape);
    const columns = bound.tensorShape.at(-1)!;
    const scalesShape = [...bound.tensorShape.slice(0, -1), scaleColumns(weights, columns)];
    this.#claimScales(scaleTensorName(tensor), scalesShape);
    if (activations?.isStatic) this.#claimScales(inputScaleTensorName(tensor), [1]);
    if (inputOrder !== undefined) this.#claimScales(inputOrder, [columns]);
    return bound;
  }

  #claimScales(tensor: string, shape: readonly number[]): void {
    this.#claimed.add(tensor);
    if (this.#tensors.has(tensor)) this.#checkShape(tensor, shape);
    else this.#missing.add(`${tensor} ${formatShape(shape)}, without which its codes mean nothing`);
  }

  check(): void {
    const unused = [...this.#tensors.keys()].filter(
      (name) => !this.#claimed.has(name) && !this.#definition.isBuffer?.(name, this.#config),
    );
    const problems = [
      ...listed('missing', [...this.#missing]),
      ...listed('of another shape', [...this.#misshapen]),
      ...listed('unknown to the model', unused),
    ];
    if (problems.length === 0) return;
    const { modelType } = this.#definition;
    throw new NeedletailError(
      'bad_checkpoint',
      `the checkpoint's tensors do not fit its config.json (model_type ${modelType}):\n${problems.join('\n')}`,
    );
  }

  /** Alternatives that are another parameter's own name are not this one's. */
  #publishedNames(canonical: string): readonly string[] {
    const names = this.#definition.tensorNames?.(canonical) ?? [canonical];
    return names.filter((name) => name === canonical || !this.#canonicalNames.has(name));
  }

  #checkShape(name: string, expected: readonly number[]): void {
    const { shape } = this.#tensors.get(name)!;
    if (shapesEqual(shape, expected)) return;
    this.#misshapen.add(`${name}: ${formatShape(shape)}, the config asks for ${formatShape(expected)}`);
  }
}

/** The part as it lies in a tensor whose matrices are stored `[rows, columns]`, not `[columns, rows]`. */
function turned(part: WeightPart): WeightPart {
  const [columns, rows] = part.tensorShape.slice(-2);
  const matrix = Math.floor(part.columnStart / columns);
  return {
    ...part,
    tensorShape: [...part.tensorShape.slice(0, -2), rows, columns],
    transpose: false,
    rowStart: matrix * rows + part.rowStart,
    columnStart: part.columnStart - matrix * columns,
  };
}

function describeMissing(part: WeightPart, names: readonly string[]): string {
  const others = names.filter((name) => name !== part.tensor);
  const tried = others.length === 0 ? '' : `, nor as ${others.join(', ')}`;
  return `${part.tensor} ${formatShape(part.tensorShape)}${tried}`;
}

function listed(problem: string, items: readonly string[]): readonly string[] {
  if (items.length === 0) return [];
  const rest = items.length > MAX_LISTED ? [`  … and ${items.length - MAX_LISTED} more`] : [];
  const noun = items.length === 1 ? 'tensor' : 'tensors';
  return [
    `${items.length} ${noun} ${problem}:`,
    ...items.slice(0, MAX_LISTED).map((item) => `  ${item}`),
    ...rest,
  ];
}
