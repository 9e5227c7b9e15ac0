// Shapes whose leading dimension may be a symbol that only a step knows.

/** Sizes that change from step to step: tokens in the step, sequences in it, rows projected to logits. */
export type SymbolicDim = 'numTokens' | 'numSeqs' | 'numLogitRows';

export type Dim = number | SymbolicDim;

/** Outermost dimension first, row-major. Only the first dimension may be symbolic. */
export type Shape = readonly Dim[];

/** What the symbols stand for in one step, or their largest values when memory is planned. */
export type DimValues = Readonly<Record<SymbolicDim, number>>;

/** Elements of one row: the product of all dimensions but the first. */
export function rowSize(shape: Shape): number {
  let size = 1;
  for (const dim of shape.slice(1)) {
    if (typeof dim !== 'number')
      throw new Error(`only the first dimension may be symbolic: [${shape.join(', ')}]`);
    size *= dim;
  }
  return size;
}

/** Elements of the whole tensor once the symbols are known. */
export function elementCount(shape: Shape, dims: DimValues): number {
  if (shape.length === 0) return 1;
  return resolveDim(shape[0], dims) * rowSize(shape);
}

export function resolveDim(dim: Dim, dims: DimValues): number {
  return typeof dim === 'number' ? dim : dims[dim];
}

export function shapesEqual(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}

/** A stored tensor as rows of its last dimension; a vector is rows of one column each. */
export function asMatrix(shape: readonly number[]): readonly [rows: number, columns: number] {
  if (shape.length < 2) return [shape[0] ?? 1, 1];
  return [shape.slice(0, -1).reduce((rows, size) => rows * size, 1), shape.at(-1)!];
}

/** `[numTokens, 256]`, as the printer and error messages write it. */
export function formatShape(shape: Shape): string {
  return `[${shape.join(', ')}]`;
}
