// Sizes that follow from a format.
import { expect, it } from 'vitest';
import { describeFormat, largestGroupSize, scaleColumns } from './weight-format.ts';

it('counts the scales of a row', () => {
  expect(scaleColumns({ dtype: 'int8', groupSize: null, hasZeros: false }, 96)).toBe(1);
  expect(scaleColumns({ dtype: 'uint4', groupSize: 32, hasZeros: false }, 96)).toBe(3);
  expect(scaleColumns({ dtype: 'uint4', groupSize: 32, hasZeros: true }, 96)).toBe(6);
});

it('finds the largest group that fits', () => {
  expect(largestGroupSize(4096, 128)).toBe(128);
  expect(largestGroupSize(96, 128)).toBe(96);
  expect(largestGroupSize(200, 128)).toBe(100);
  expect(largestGroupSize(7, 4)).toBe(1);
});

it('describes itself', () => {
  expect(describeFormat({ dtype: 'int8', groupSize: null, hasZeros: false })).toBe('int8 per channel');
  expect(describeFormat({ dtype: 'uint4', groupSize: 128, hasZeros: true })).toBe(
    'uint4 in groups of 128 with zeros',
  );
});
