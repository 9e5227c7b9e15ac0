// The driver API's C functions, as much of them as we call.
import koffi, { type LibraryHandle } from 'koffi';
import type { Address } from '../native-memory.ts';

type Call = (...args: readonly unknown[]) => number;

/** Handles and addresses are `uintptr_t`, results come back through arrays. */
export function driverFunctions(library: LibraryHandle) {
  const call = (signature: string): Call => library.func(`int ${signature}`) as Call;
  const addressOf = (name: string): Address => Number(koffi.address(library.symbol(name)));
  return {
    copyFunctions: ['cuCtxSetCurrent', 'cuMemcpyHtoDAsync_v2', 'cuEventRecord', 'cuEventSynchronize'].map(
      addressOf,
    ),
    cuInit: call('cuInit(unsigned int flags)'),
    cuGetErrorName: call('cuGetErrorName(int status, _Out_ const char **text)'),
    cuGetErrorString: call('cuGetErrorString(int status, _Out_ const char **text)'),
    cuDriverGetVersion: call('cuDriverGetVersion(void *version)'),
    cuDeviceGetCount: call('cuDeviceGetCount(void *count)'),
    cuDeviceGet: call('cuDeviceGet(void *device, int ordinal)'),
    cuDeviceGetAttribute: call('cuDeviceGetAttribute(void *value, int attribute, int device)'),
    cuDeviceGetName: call('cuDeviceGetName(void *name, int length, int device)'),
    cuDeviceTotalMem_v2: call('cuDeviceTotalMem_v2(void *bytes, int device)'),
    cuDevicePrimaryCtxRetain: call('cuDevicePrimaryCtxRetain(void *context, int device)'),
    cuDevicePrimaryCtxRelease_v2: call('cuDevicePrimaryCtxRelease_v2(int device)'),
    cuCtxSetCurrent: call('cuCtxSetCurrent(uintptr_t context)'),
    cuMemGetInfo_v2: call('cuMemGetInfo_v2(void *free, void *total)'),
    cuMemAlloc_v2: call('cuMemAlloc_v2(void *address, size_t bytes)'),
    cuMemFree_v2: call('cuMemFree_v2(uintptr_t address)'),
    cuMemHostAlloc: call('cuMemHostAlloc(void *address, size_t bytes, unsigned int flags)'),
    cuMemHostRegister_v2: call('cuMemHostRegister_v2(uintptr_t address, size_t bytes, unsigned int flags)'),
    cuMemHostUnregister: call('cuMemHostUnregister(uintptr_t address)'),
    cuMemFreeHost: call('cuMemFreeHost(uintptr_t address)'),
    cuMemcpyHtoDAsync_v2: call(
      'cuMemcpyHtoDAsync_v2(uintptr_t target, uintptr_t source, size_t bytes, uintptr_t stream)',
    ),
    cuMemcpyDtoHAsync_v2: call(
      'cuMemcpyDtoHAsync_v2(uintptr_t target, uintptr_t source, size_t bytes, uintptr_t stream)',
    ),
    cuMemcpyDtoDAsync_v2: call(
      'cuMemcpyDtoDAsync_v2(uintptr_t target, uintptr_t source, size_t bytes, uintptr_t stream)',
    ),
    cuMemsetD8Async: call('cuMemsetD8Async(uintptr_t target, uint8_t byte, size_t bytes, uintptr_t stream)'),
    cuStreamCreate: call('cuStreamCreate(void *stream, unsigned int flags)'),
    cuStreamDestroy_v2: call('cuStreamDestroy_v2(uintptr_t stream)'),
    cuStreamSynchronize: call('cuStreamSynchronize(uintptr_t stream)'),
    cuStreamQuery: call('cuStreamQuery(uintptr_t stream)'),
    cuStreamBeginCapture_v2: call('cuStreamBeginCapture_v2(uintptr_t stream, int mode)'),
    cuStreamEndCapture: call('cuStreamEndCapture(uintptr_t stream, void *graph)'),
    cuGraphInstantiateWithFlags: call(
      'cuGraphInstantiateWithFlags(void *exec, uintptr_t graph, unsigned long long flags)',
    ),
    cuGraphDestroy: call('cuGraphDestroy(uintptr_t graph)'),
    cuGraphLaunch: call('cuGraphLaunch(uintptr_t exec, uintptr_t stream)'),
    cuGraphExecDestroy: call('cuGraphExecDestroy(uintptr_t exec)'),
    cuLaunchHostFunc: call('cuLaunchHostFunc(uintptr_t stream, uintptr_t callback, uintptr_t argument)'),
    cuStreamWaitEvent: call('cuStreamWaitEvent(uintptr_t stream, uintptr_t event, unsigned int flags)'),
    cuEventCreate: call('cuEventCreate(void *event, unsigned int flags)'),
    cuEventDestroy_v2: call('cuEventDestroy_v2(uintptr_t event)'),
    cuEventRecord: call('cuEventRecord(uintptr_t event, uintptr_t stream)'),
    cuEventElapsedTime: call('cuEventElapsedTime(void *ms, uintptr_t start, uintptr_t end)'),
    cuModuleLoadData: call('cuModuleLoadData(void *module, const void *image)'),
    cuModuleUnload: call('cuModuleUnload(uintptr_t module)'),
    cuModuleGetFunction: call('cuModuleGetFunction(void *function, uintptr_t module, const char *name)'),
    cuFuncSetAttribute: call('cuFuncSetAttribute(uintptr_t function, int attribute, int value)'),
    cuTensorMapEncodeTiled: call(
      'cuTensorMapEncodeTiled(void *map, int type, unsigned int rank, uintptr_t address, const void *sizes, ' +
        'const void *strides, const void *box, const void *steps, int interleave, int swizzle, int promotion, int fill)',
    ),
    cuLaunchKernelEx: call(
      'cuLaunchKernelEx(uintptr_t config, uintptr_t function, uintptr_t params, uintptr_t extra)',
    ),
  };
}
