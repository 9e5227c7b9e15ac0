// What models compute with: a value of a graph under construction, the tracer that records it, and named places.
import type { Attributes, StepInputName, Value } from '../ir/graph.ts';
import { GraphBuilder, type ParameterStorage } from '../ir/graph-builder.ts';
import type { KVCacheDType } from '../tensor/dtype.ts';
import type { Shape } from '../tensor/shape.ts';

/** Records what a model computes. Each build has its own. */
export class Tracer {
  readonly graph: GraphBuilder;
  readonly kvDType: KVCacheDType;
  #label = '';

  constructor(name: string, kvDType: KVCacheDType) {
    this.graph = new GraphBuilder(name);
    this.kvDType = kvDType;
  }

  /** Append an op under the current label. */
  apply(op: string, inputs: readonly Tensor[], attributes: Attributes = {}): readonly Tensor[] {
    const values = inputs.map((input) => input.value);
    return this.graph.apply(op, this.#label, values, attributes).map((value) => new Tensor(this, value));
  }

  input(name: StepInputName, group = 0): Tensor {
    return new Tensor(this, this.graph.input(name, group));
  }

  /** Everything that `body` records carries the label. */
  labelled<T>(label: string, body: () => T): T {
    const outer = this.#label;
    this.#label = label;
    try {
      return body();
    } finally {
      this.#label = outer;
    }
  }
}

/** A value and the tracer that operations on it are recorded by. */
export class Tensor {
  readonly tracer: Tracer;
  readonly value: Value;

  constructor(tracer: Tracer, value: Value) {
    this.tracer = tracer;
    this.value = value;
  }

  get shape(): Shape {
    return this.value.type.shape;
  }
}

/** A place in the tree of modules: parameters and nodes are named after it, as Hugging Face names them. */
export class Scope {
  readonly tracer: Tracer;
  readonly path: string;

  constructor(tracer: Tracer, path = '') {
    this.tracer = tracer;
    this.path = path;
  }

  at(name: string): Scope {
    return new Scope(this.tracer, this.nameOf(name));
  }

  nameOf(name: string): string {
    return this.path === '' ? name : `${this.path}.${name}`;
  }

  parameter(name: string, shape: readonly number[], storage: ParameterStorage = {}): Tensor {
    return new Tensor(this.tracer, this.tracer.graph.parameter(this.nameOf(name), shape, storage));
  }
}
