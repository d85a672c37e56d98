import Foundation
import TensorFlowLite

/// count values of a normal distribution times the temperature (Box and Muller).
func drawLatents(count: Int, temperature: Float, generator: inout some RandomNumberGenerator) -> [Float] {
    (0..<count).map { _ in
        let radius = (-2 * log(Float.random(in: Float.leastNormalMagnitude..<1, using: &generator))).squareRoot()
        return temperature * radius * cos(2 * .pi * Float.random(in: 0..<1, using: &generator))
    }
}

/// lr [64, 64, 3] in [0, 1], latents [[128, 128, 6], [64, 64, 21]]; returns hr [256, 256, 3], not clipped.
func decode(interpreter: Interpreter, lr: [Float], latents: [[Float]]) throws -> [Float] {
    let runner = try interpreter.signatureRunner(with: "decode")
    try runner.allocateTensors()
    try runner.copy(lr.withUnsafeBufferPointer { Data(buffer: $0) }, toInputNamed: "lr")
    for (index, values) in latents.enumerated() {
        try runner.copy(values.withUnsafeBufferPointer { Data(buffer: $0) }, toInputNamed: "latents_\(index + 1)")
    }
    try runner.invoke()
    let hr = try runner.output(named: "hr")
    return hr.data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
}

let options: Interpreter.Options = { var o = Interpreter.Options(); o.threadCount = 4; return o }()
let interpreter = try Interpreter(modelPath: Bundle.main.path(forResource: "hcflow", ofType: "tflite")!, options: options)
var generator = SystemRandomNumberGenerator()
let latents = [128 * 128 * 6, 64 * 64 * 21].map { drawLatents(count: $0, temperature: 0.8, generator: &generator) }
