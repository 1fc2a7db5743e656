"""The process of eSpeak NG: ["voice", ["text", ...]] as JSON on standard input, for each text its sample count and int16 samples on output.

Run as a script by `espeak.speak`; the standard library only, so that it starts in a few hundredths of a second.
"""

import ctypes
import json
import struct
import sys

RATE = 22_050
_SYNCHRONOUS, _UTF8 = 2, 1


def main() -> None:
    voice, texts = json.loads(sys.stdin.buffer.read())
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    chunks: list[bytes] = []
    callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

    @callback_type
    def collect(samples, count, _events):  # type: ignore[no-untyped-def]
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0  # go on

    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate != RATE:
        sys.exit(f"the library did not start at {RATE} Hz: espeak_Initialize gave {rate}")
    library.espeak_SetSynthCallback(collect)
    if library.espeak_SetVoiceByName(voice.encode()):
        sys.exit("there is no such voice")
    for text in texts:
        chunks.clear()
        data = text.encode() + b"\0"
        library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 0, 0, _UTF8, None, None)
        wave = b"".join(chunks)
        sys.stdout.buffer.write(struct.pack("=i", len(wave) // 2) + wave)


if __name__ == "__main__":
    main()
