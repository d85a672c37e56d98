/** ONNX Runtime for WebAssembly. */
export * from "onnxruntime-web/wasm";
export const files = { mjs: "ort-wasm-simd-threaded.mjs", wasm: "ort-wasm-simd-threaded.wasm" };
