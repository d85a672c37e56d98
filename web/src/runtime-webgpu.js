/** ONNX Runtime for WebGPU. */
export * from "onnxruntime-web/webgpu";
export const files = { mjs: "ort-wasm-simd-threaded.asyncify.mjs", wasm: "ort-wasm-simd-threaded.asyncify.wasm" };
