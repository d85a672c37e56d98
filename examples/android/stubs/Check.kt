// Runs Upscaler.kt over the stubs: with nearest neighbour as the decoder, every pixel must come from its own place.
import android.graphics.Bitmap
import java.io.File

fun main() {
    val lr = Bitmap.createBitmap(75, 41, Bitmap.Config.ARGB_8888)
    for (y in 0 until lr.height) for (x in 0 until lr.width) lr.setPixel(x, y, (255 shl 24) or (x shl 16) or (y shl 8) or 7)
    val hr = upscale(File("model.tflite"), lr, 0.8f, 7)
    check(hr.width == 4 * lr.width && hr.height == 4 * lr.height)
    for (y in 0 until hr.height) for (x in 0 until hr.width)
        check(hr.getPixel(x, y) == lr.getPixel(x / 4, y / 4)) { "pixel $x, $y" }
    println("ok")
}
