// Binds every parameter to tensors of the checkpoint at hand: published names tried in order, shapes checked, and
// nothing of the checkpoint left over that the model does not know.
import type { Graph, WeightPart } from '../../ir/graph.ts';
import type { HFConfig, ModelDefinition } from '../../models/model-definition.ts';
import type { CompileRequest } from '../request.ts';
import { formatShape, shapesEqual } from '../../tensor/shape.ts';
import type { TensorCatalog } from '../../tensor/tensor-source.ts';
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
    if (present.length === 0) this.#missing.add(describeMissing(part, names));
    else this.#checkShape(part, present[0]);
    return { ...part, tensor: present[0] ?? part.tensor };
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

  #checkShape(part: WeightPart, name: string): void {
    const { shape } = this.#tensors.get(name)!;
    if (shapesEqual(shape, part.tensorShape)) return;
    this.#misshapen.add(
      `${name}: ${formatShape(shape)}, the config asks for ${formatShape(part.tensorShape)}`,
    );
  }
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
