// A process that downloads the model named on its command line; for tests of downloads that run at once.
import { resolveModel } from '../../src/checkpoint/resolve-model.ts';

await resolveModel(process.argv[2]);
