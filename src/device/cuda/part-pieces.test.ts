// Pieces of a part are the part's rows, each once and in order, and small.
import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { WeightPart } from '../../ir/graph.ts';
import { inPieces, tensorRows } from './part-pieces.ts';

const COLUMNS = 10;

function partOf(rowStart: number, rowCount: number, rowStep: number, transpose: boolean): WeightPart {
  const numRows = rowStart + rowCount * rowStep;
  return {
    name: 'matrix',
    tensor: 'matrix',
    tensorShape: transpose ? [COLUMNS, numRows] : [numRows, COLUMNS],
    rowStart,
    rowCount,
    rowStep,
    columnStart: 0,
    columnCount: COLUMNS,
    transpose,
  };
}

const rowsOf = ({ rowStart, rowCount, rowStep }: WeightPart): number[] =>
  Array.from({ length: rowCount }, (_, i) => rowStart + i * rowStep);

it('pieces have the rows of the part, and of the tensor no more than fit', () =>
  fc.assert(
    fc.property(
      fc.nat(50),
      fc.integer({ min: 1, max: 500 }),
      fc.integer({ min: 1, max: 3 }),
      fc.integer({ min: 1, max: 100 }),
      fc.integer({ min: 1, max: 100_000 }),
      (rowStart, rowCount, rowStep, rowBytes, maxBytes) => {
        const part = partOf(rowStart, rowCount, rowStep, false);
        const pieces = inPieces(part, rowBytes, maxBytes);
        expect(pieces.flatMap(rowsOf)).toEqual(rowsOf(part));
        const leastBytes = 16 * rowStep * rowBytes;
        for (const piece of pieces) {
          const [start, end] = tensorRows(piece);
          expect((end - start) * rowBytes).toBeLessThanOrEqual(Math.max(maxBytes, leastBytes));
        }
      },
    ),
  ));

it('a transposed part stays whole', () => {
  const part = partOf(3, 100, 1, true);
  expect(inPieces(part, 2, 64)).toEqual([part]);
});
