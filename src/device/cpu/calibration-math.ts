// The arithmetic of calibration on the native threads: a job each, whose fields native/matrix-product.h and
// native/calibration.h declare. Arrays must not change until it has ended.
import { check, Status, type CpuLibrary } from '../../ffi/cpu-library.ts';
import type { Address } from '../../ffi/native-memory.ts';
import type { CalibrationMath } from '../../tensor/calibration-math.ts';
import type { CpuRuntime } from './cpu-runtime.ts';
import { StructWriter } from './struct-writer.ts';

/** Of `NtMatrixProduct`, `NtRangeSearch` and `NtColumnRounding`. */
const [PRODUCT_BYTES, SEARCH_BYTES, ROUNDING_BYTES] = [80, 72, 96];

type Submit = (library: CpuLibrary, runtime: Address, fields: Uint8Array, job: number) => void;

export function calibrationMath(runtime: CpuRuntime): CalibrationMath {
  const { library, address } = runtime;
  const run = async ({ bytes }: StructWriter, arrays: readonly NodeJS.TypedArray[], submit: Submit) => {
    const status = await runtime.run((job) => submit(library, address, bytes, job), arrays);
    check('a step of calibration', status, status === Status.outOfMemory ? 'out_of_memory' : 'device_failed');
  };
  return {
    async addProduct({ a, b, c, rows, depth, columns, isSymmetric }) {
      const writer = new StructWriter(PRODUCT_BYTES);
      for (const { values, stride } of [a, b, c]) writer.int64(library.addressOf(values), stride);
      writer.int64(rows, depth, columns, isSymmetric === true ? 1 : 0);
      const arrays = [a, b, c].map(({ values }) => values);
      await run(writer, arrays, (to, ...job) => to.submitMatrixProduct(...job));
    },
    async searchRanges({ values, columns, groupSize, triangles, shares, codes, scales }) {
      const writer = new StructWriter(SEARCH_BYTES);
      const arrays = [values, triangles, shares, codes, scales];
      writer.int64(...arrays.map((array) => library.addressOf(array)));
      writer.int64(values.length / columns, columns, groupSize, shares.length);
      await run(writer, arrays, (to, ...job) => to.submitRangeSearch(...job));
    },
    async roundColumns({ values, scales, groupSize, order, factor, start, end, sums, codes, errors }) {
      const writer = new StructWriter(ROUNDING_BYTES);
      const arrays = [values, scales, factor, sums, order, codes, errors];
      writer.int64(...arrays.map((array) => library.addressOf(array)));
      writer.int64(values.length / order.length, order.length, groupSize, start, end);
      await run(writer, arrays, (to, ...job) => to.submitColumnRounding(...job));
    },
  };
}
