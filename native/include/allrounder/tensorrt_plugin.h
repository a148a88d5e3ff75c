/* allrounder::TokenGather for TensorRT: registering it by hand.
 *
 * Programs that load plugins by path need nothing of this: registry->loadLibrary("liballrounder_tensorrt_plugin.so"),
 * or trtexec --dynamicPlugins=liballrounder_tensorrt_plugin.so. By hand, the library stays loaded as long as the process:
 *
 *   C++:     allrounder_register_tensorrt_plugins(getPluginRegistry(), getInferLibVersion());
 *   Python:  nvinfer = ctypes.CDLL("libnvinfer.so.10"); nvinfer.getPluginRegistry.restype = ctypes.c_void_p
 *            register = ctypes.CDLL("liballrounder_tensorrt_plugin.so").allrounder_register_tensorrt_plugins
 *            register.argtypes, register.restype = [ctypes.c_void_p, ctypes.c_int], ctypes.c_char_p
 *            failure = register(nvinfer.getPluginRegistry(), nvinfer.getInferLibVersion())
 *
 * The library was compiled with the headers of one major version of TensorRT and serves that one alone.
 */
#ifndef ALLROUNDER_TENSORRT_PLUGIN_H
#define ALLROUNDER_TENSORRT_PLUGIN_H

#ifdef __cplusplus
extern "C" {
#endif

/* Registers the op's creator in `registry`, an nvinfer1::IPluginRegistry* of the libnvinfer whose getInferLibVersion()
 * is `version`. Returns NULL, or a sentence that says what went wrong and lives as long as the library. May be called
 * again. */
__attribute__((visibility("default"))) const char* allrounder_register_tensorrt_plugins(void* registry, int version);

#ifdef __cplusplus
}
#endif

#endif
