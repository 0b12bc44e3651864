// Upscales a PPM picture: upscale x4.onnx in.ppm out.ppm
// Pixels go in and come out as bytes, rows of RGB; there is nothing to scale or to clamp.
#include <cstdint>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include <openvino/openvino.hpp>

int main(int count, char** arguments) {
    if (count != 4) {
        std::cerr << "expected: upscale x4.onnx in.ppm out.ppm\n";
        return 2;
    }
    std::ifstream in(arguments[2], std::ios::binary);
    std::string magic;
    std::size_t width = 0, height = 0, most = 0;
    in >> magic >> width >> height >> most;
    in.get();
    if (magic != "P6" || most != 255) {
        std::cerr << arguments[2] << ": expected a binary PPM of 8 bits\n";
        return 2;
    }
    std::vector<std::uint8_t> pixels(3 * width * height);
    in.read(reinterpret_cast<char*>(pixels.data()), pixels.size());

    ov::Core core;
    // Certified for float32 here; on CPUs with bfloat16 OpenVINO takes that unless told otherwise.
    auto model = core.compile_model(arguments[1], "CPU",
                                    ov::hint::inference_precision(ov::element::f32));
    auto request = model.create_infer_request();
    request.set_tensor("image", ov::Tensor(ov::element::u8, {1, height, width, 3}, pixels.data()));
    request.infer();
    ov::Tensor upscaled = request.get_tensor("upscaled");  // (1, 4 height, 4 width, 3), uint8

    std::ofstream out(arguments[3], std::ios::binary);
    out << "P6\n" << upscaled.get_shape()[2] << ' ' << upscaled.get_shape()[1] << "\n255\n";
    out.write(static_cast<const char*>(upscaled.data()), upscaled.get_byte_size());
}
