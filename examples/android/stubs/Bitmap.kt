// The few members of android.graphics.Bitmap that Upscaler.kt uses, so that a compiler can read it without the Android SDK.
package android.graphics

class Bitmap private constructor(val width: Int, val height: Int) {
    enum class Config { ARGB_8888 }

    private val pixels = IntArray(width * height)

    fun getPixel(x: Int, y: Int): Int = pixels[y * width + x]

    fun setPixel(x: Int, y: Int, color: Int) {
        pixels[y * width + x] = color
    }

    companion object {
        fun createBitmap(width: Int, height: Int, config: Config): Bitmap = Bitmap(width, height)
    }
}
