// The few members of org.tensorflow.lite.Interpreter that Upscaler.kt uses. This one decodes by nearest neighbour, so that
// running Upscaler.kt shows whether it cuts and joins its tiles at the right places.
package org.tensorflow.lite

import java.io.File
import java.nio.ByteBuffer

class Interpreter(model: File, options: Options) {
    class Options {
        fun setNumThreads(threads: Int): Options = this
    }

    fun runSignature(inputs: Map<String, Any>, outputs: Map<String, Any>, signature: String) {
        check(signature == "decode" && inputs.keys == setOf("lr", "latents_1", "latents_2")) { "$signature ${inputs.keys}" }
        val lr = inputs["lr"] as ByteBuffer
        val hr = outputs["hr"] as ByteBuffer
        val side = 64
        check(lr.remaining() == 4 * side * side * 3) { "lr has ${lr.remaining()} bytes" }
        check((inputs["latents_1"] as ByteBuffer).remaining() == 4 * 4 * side * side * 6)
        check((inputs["latents_2"] as ByteBuffer).remaining() == 4 * side * side * 21)
        for (y in 0 until 4 * side) for (x in 0 until 4 * side) for (c in 0..2)
            hr.putFloat(4 * ((y * 4 * side + x) * 3 + c), lr.getFloat(4 * ((y / 4 * side + x / 4) * 3 + c)))
    }

    fun close() {}
}
