// What an op is: the types it yields, the properties that passes ask for, and its meaning as plain arithmetic.
import type { z } from 'zod';
import { formatShape } from '../tensor/shape.ts';
import { isCodeDType } from '../tensor/dtype.ts';
import type { Attributes, ValueType } from './graph.ts';
import type { HostTensor } from './host-tensor.ts';
import type { PagedKVCaches } from './paged-kv-cache.ts';

/** A graph that breaks the rules of its ops: a mistake in a model or a pass, never in a request. */
export class GraphError extends Error {
  override readonly name = 'GraphError';
}

/** What a node gives its op to look at. */
export interface NodeTypes {
  readonly label: string;
  readonly inputs: readonly ValueType[];
  readonly attributes: Attributes;
}

export interface OpProperties {
  /** Names of the operands in order; a trailing `?` marks one that may be left out at the end. */
  readonly inputs: readonly string[];
  /** Every element of the output depends on the elements at the same place of the inputs, which have its shape. */
  readonly isElementwise: boolean;
  /** The output is a range of the input's columns: it needs no launch and no memory of its own. */
  readonly isView: boolean;
  /** Rows are independent of each other: a gather of rows may move before it. */
  readonly isRowwise: boolean;
  /** Writes the KV cache: it must neither be dropped nor repeated. */
  readonly hasEffect: boolean;
  /** For each output, the inputs whose memory it may take over, element for element. */
  readonly inPlace: readonly (readonly number[])[];
  /** Which input is a matrix `[rows, columns]` whose layout a kernel may choose; null for none. */
  readonly matrixInput: number | null;
  /** Which input holds the scales of that matrix, whose layout a kernel may choose as well; null for none. */
  readonly scalesInput: number | null;
  /**
   * Operands each of whose rows makes one column of the output: nodes that agree in everything else can become one, of
   * these operands stacked.
   */
  readonly stackedInputs: readonly number[];
  /**
   * Operands that hold rows of several matrices, one matrix after the other: of two nodes that agree in everything else, these
   * can be joined matrix by matrix.
   */
  readonly groupedInputs: readonly number[];
  /**
   * The ops that do the same with a weight of codes: `weightOnly` (x, weight, scales, …), `product` (x, xScales, weight,
   * scales, …) with x of codes as well; the operands that follow the weight follow. Null where there are none.
   */
  readonly quantizedForms: { readonly weightOnly: string; readonly product: string } | null;
  /** Outputs that stay float32 whatever type activations have: scales. */
  readonly wideOutputs: readonly number[];
}

export interface OpDefinition extends OpProperties {
  readonly name: string;
  /** Types of the outputs. Throws a `GraphError` that names op, label and shapes if inputs or attributes are wrong. */
  infer(node: NodeTypes): readonly ValueType[];
  /**
   * Compute the outputs for real inputs `[rows, columns]`; optional inputs may be missing at the end, tokens are
   * `TOKEN`. Trusts that `infer` accepted the node.
   */
  interpret(
    inputs: readonly HostTensor[],
    attributes: Attributes,
    caches: PagedKVCaches,
  ): readonly HostTensor[];
}

interface OpSpec<A> extends Partial<Omit<OpProperties, 'inputs'>> {
  readonly name: string;
  readonly inputs: readonly string[];
  readonly attributes: z.ZodType<A>;
  infer(node: OpChecks, attributes: A): readonly ValueType[];
  interpret(inputs: readonly HostTensor[], attributes: A, caches: PagedKVCaches): readonly HostTensor[];
}

/** Completes an op: attributes checked by its schema, operands counted, properties off unless stated. */
export function defineOp<A>(spec: OpSpec<A>): OpDefinition {
  return {
    isElementwise: false,
    isView: false,
    isRowwise: false,
    hasEffect: false,
    inPlace: [],
    matrixInput: null,
    scalesInput: null,
    stackedInputs: [],
    groupedInputs: [],
    quantizedForms: null,
    wideOutputs: [],
    ...spec,
    infer(node) {
      const checks = new OpChecks(spec.name, spec.inputs, node);
      return spec.infer(checks, checks.parse(spec.attributes));
    },
    interpret: (inputs, attributes, caches) => spec.interpret(inputs, attributes as A, caches),
  };
}

/** Operands that a node of the op must have: its first. */
export function numRequiredInputs({ inputs }: Pick<OpProperties, 'inputs'>): number {
  return inputs.filter((name) => !name.endsWith('?')).length;
}

/** The checks that ops share; every failure names the op, the label and the operands' types. */
export class OpChecks {
  readonly inputs: readonly ValueType[];
  readonly #name: string;
  readonly #operands: readonly string[];
  readonly #node: NodeTypes;

  constructor(name: string, operands: readonly string[], node: NodeTypes) {
    this.#name = name;
    this.#operands = operands;
    this.#node = node;
    this.inputs = node.inputs;
    const numRequired = numRequiredInputs({ inputs: operands });
    const isCountRight = node.inputs.length >= numRequired && node.inputs.length <= operands.length;
    this.check(isCountRight, `takes (${operands.join(', ')}), was given ${node.inputs.length} operands`);
  }

  get label(): string {
    return this.#node.label;
  }

  check(isTrue: boolean, problem: string): void {
    if (!isTrue) this.fail(problem);
  }

  fail(problem: string): never {
    const types = this.inputs.map((type, i) => `${this.#operands[i] ?? i}: ${formatType(type)}`).join(', ');
    throw new GraphError(`${this.#name} at ${this.#node.label || 'the top'}: ${problem} (${types})`);
  }

  parse<A>(schema: z.ZodType<A>): A {
    const result = schema.safeParse(this.#node.attributes);
    if (result.success) return result.data;
    const issues = result.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`);
    return this.fail(`bad attributes, ${issues.join('; ')}`);
  }

  /** Those operands and attributes would suit another op, which this one contains; returns what it would yield. */
  inferAs(op: OpDefinition, operands: readonly number[], attributes: Attributes): readonly ValueType[] {
    return op.infer({
      label: this.#node.label,
      inputs: operands.map((operand) => this.inputs[operand]),
      attributes,
    });
  }

  /** Operand `index` is a matrix of floats; returns its columns. */
  matrix(index: number): number {
    this.#float(index, 2);
    return this.inputs[index].shape[1] as number;
  }

  /** Operand `index` is a vector of `size` floats. */
  vector(index: number, size: number): void {
    this.#float(index, 1);
    this.check(this.inputs[index].shape[0] === size, `${this.#operand(index)} must have ${size} elements`);
  }

  /** Operand `index` is a matrix of codes of the type given; returns its columns. */
  codes(index: number, dtype: string): number {
    const type = this.inputs[index];
    const isRight = type.dtype === dtype && type.shape.length === 2;
    this.check(isRight, `${this.#operand(index)} must be ${dtype} codes of rank 2`);
    return type.shape[1] as number;
  }

  /** Operand `index` is int32 with one element for each row of `ofInput`. */
  intPerRow(index: number, ofInput: number): void {
    this.ints(index);
    const isEqual = this.inputs[index].shape[0] === this.inputs[ofInput].shape[0];
    this.check(isEqual, `${this.#operand(index)} must have one element per row of ${this.#operand(ofInput)}`);
  }

  ints(index: number): void {
    this.check(this.inputs[index].dtype === 'int32', `${this.#operand(index)} must be int32`);
  }

  token(index: number): void {
    this.check(
      this.inputs[index].dtype === 'token',
      `${this.#operand(index)} must be the token of a cache write`,
    );
  }

  /** Operands `a` and `b` have the same number of rows, whatever it is. */
  sameRows(a: number, b: number): void {
    const isEqual = this.inputs[a].shape[0] === this.inputs[b].shape[0];
    this.check(isEqual, `${this.#operand(a)} and ${this.#operand(b)} must have the same rows`);
  }

  sameShape(a: number, b: number): void {
    this.sameRows(a, b);
    const isEqual = this.inputs[a].shape[1] === this.inputs[b].shape[1];
    this.check(isEqual, `${this.#operand(a)} and ${this.#operand(b)} must have the same columns`);
  }

  #float(index: number, rank: number): void {
    const { dtype, shape } = this.inputs[index];
    const isFloat = dtype !== 'int32' && dtype !== 'token' && !isCodeDType(dtype);
    this.check(isFloat && shape.length === rank, `${this.#operand(index)} must be floats of rank ${rank}`);
  }

  #operand(index: number): string {
    return this.#operands[index].replace('?', '');
  }
}

/** `float32 [numTokens, 256]`, as printer and messages write it. */
export function formatType(type: ValueType): string {
  return type.dtype === 'token' ? 'token' : `${type.dtype} ${formatShape(type.shape)}`;
}
