// What the CPU device adds to a launch description: how an op's attributes become numbers of a native command.
import type { KernelDescription } from '../kernel.ts';

export type LaunchAttributes = { readonly [key: string]: unknown };

/** 32 bits of a command's parameters. */
export type Parameter = { readonly int: number } | { readonly float: number };

export interface CommandParameters {
  /** In the order that the kernel's source documents. */
  readonly values: readonly Parameter[];
  /** Longer attributes, such as one number per head. */
  readonly constants?: readonly number[];
}

export interface CpuKernelDescription extends KernelDescription {
  /** Absent where the kernel needs none of its op's attributes. */
  encode?(attributes: LaunchAttributes): CommandParameters;
}

/** A description of the common case: one kernel for every shape and type, weights as written, no workspace. */
export function singleKernel(
  op: string,
  kernel: string,
  encode?: (attributes: LaunchAttributes) => readonly Parameter[],
): CpuKernelDescription {
  return {
    op,
    weightLayout: () => 'rowMajor',
    variants: () => [{ kernel, maxRows: null }],
    workspaceBytes: () => 0,
    ...(encode && { encode: (attributes) => ({ values: encode(attributes) }) }),
  };
}

export function int(value: unknown): Parameter {
  return { int: Number(value) };
}

export function float(value: unknown): Parameter {
  return { float: Number(value) };
}
