// The parts of @huggingface/jinja that we use, typed: its own declarations do not resolve under Node's module rules.
import * as library from '@huggingface/jinja';

/** A node of the syntax tree. */
export interface JinjaNode {
  readonly type: string;
}

/** A value at run time: `value` holds a string, number, boolean, array of values, Map of values, function or null. */
export interface JinjaValue {
  readonly value: unknown;
}

export interface JinjaEnvironment {
  /** Declares a variable; throws if it exists. */
  set(name: string, value: unknown): void;
}

export interface JinjaInterpreter {
  run(program: JinjaNode): JinjaValue;
  /** Every node of the tree is evaluated through this method. */
  evaluate(node: JinjaNode | undefined, environment: JinjaEnvironment): JinjaValue;
  /** Private in the library. `filter` is an Identifier, or a CallExpression whose `callee` is one. */
  applyFilter(operand: JinjaValue, filter: JinjaNode, environment: JinjaEnvironment): JinjaValue;
}

interface JinjaLibrary {
  readonly tokenize: (source: string, options: { lstrip_blocks: boolean; trim_blocks: boolean }) => unknown[];
  readonly parse: (tokens: unknown[]) => JinjaNode;
  readonly Environment: new () => JinjaEnvironment;
  readonly Interpreter: new (environment: JinjaEnvironment) => JinjaInterpreter;
}

export const { tokenize, parse, Environment, Interpreter } = library as unknown as JinjaLibrary;
