import android.graphics.Bitmap
import org.tensorflow.lite.Interpreter
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.Random

const val TILE = 64
const val OVERLAP = 16
const val SCALE = 4
val LATENT_CHANNELS = intArrayOf(6, 21) // latents_1 at twice the LR size, latents_2 at the LR size

/** Values [height, width, channels], row by row. */
class Grid(val height: Int, val width: Int, val channels: Int, val values: FloatArray = FloatArray(height * width * channels))

fun floats(count: Int): ByteBuffer = ByteBuffer.allocateDirect(4 * count).order(ByteOrder.nativeOrder())

/** The window of `size` values at (top, left); beyond the border the nearest pixel. */
fun cut(grid: Grid, top: Int, left: Int, size: Int): ByteBuffer {
    val buffer = floats(size * size * grid.channels)
    for (y in top until top + size) for (x in left until left + size) {
        val pixel = (y.coerceIn(0, grid.height - 1) * grid.width + x.coerceIn(0, grid.width - 1)) * grid.channels
        for (c in 0 until grid.channels) buffer.putFloat(grid.values[pixel + c])
    }
    buffer.rewind()
    return buffer
}

fun upscale(model: File, lr: Bitmap, temperature: Float, seed: Long): Bitmap {
    val interpreter = Interpreter(model, Interpreter.Options().setNumThreads(4))
    val image = Grid(lr.height, lr.width, 3)
    for (y in 0 until lr.height) for (x in 0 until lr.width) for (c in 0..2)
        image.values[(y * lr.width + x) * 3 + c] = (lr.getPixel(x, y) shr (16 - 8 * c) and 255) / 255f
    val random = Random(seed)
    val levels = LATENT_CHANNELS.size
    val latents = LATENT_CHANNELS.mapIndexed { index, channels ->
        val factor = 1 shl (levels - 1 - index)
        Grid(lr.height * factor, lr.width * factor, channels).apply {
            for (i in values.indices) values[i] = temperature * random.nextGaussian().toFloat()
        }
    }
    val out = Bitmap.createBitmap(lr.width * SCALE, lr.height * SCALE, Bitmap.Config.ARGB_8888)
    val step = TILE - 2 * OVERLAP
    for (top in 0 until lr.height step step) for (left in 0 until lr.width step step) {
        val inputs = HashMap<String, Any>()
        inputs["lr"] = cut(image, top - OVERLAP, left - OVERLAP, TILE)
        latents.forEachIndexed { index, grid ->
            val factor = 1 shl (levels - 1 - index)
            inputs["latents_${index + 1}"] = cut(grid, (top - OVERLAP) * factor, (left - OVERLAP) * factor, TILE * factor)
        }
        val hr = floats(TILE * SCALE * TILE * SCALE * 3)
        interpreter.runSignature(inputs, hashMapOf<String, Any>("hr" to hr), "decode")
        for (y in 0 until minOf(step, lr.height - top) * SCALE) for (x in 0 until minOf(step, lr.width - left) * SCALE) {
            val pixel = ((y + OVERLAP * SCALE) * TILE * SCALE + x + OVERLAP * SCALE) * 3
            var color = 255 shl 24
            for (c in 0..2) color = color or ((hr.getFloat(4 * (pixel + c)).coerceIn(0f, 1f) * 255f + 0.5f).toInt() shl (16 - 8 * c))
            out.setPixel(left * SCALE + x, top * SCALE + y, color)
        }
    }
    interpreter.close()
    return out
}
