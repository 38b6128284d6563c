// A profile: the shapes that an engine was optimised for, of which it may have several ranges.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "batch.h"

namespace bert {

// Each axis the smaller of the two.
inline Shapes smaller(Shapes shapes, const Shapes& limit) {
    for (auto& [name, shape] : shapes) {
        const Shape& most = limit.at(name);
        for (std::size_t axis = 0; axis < shape.size(); ++axis) {
            shape[axis] = std::min(shape[axis], most[axis]);
        }
    }
    return shapes;
}

// Whether no axis of one is above the same axis of the other.
inline bool within(const Shapes& shapes, const Shapes& limit) { return smaller(shapes, limit) == shapes; }

struct Profile {
    Shapes least, most;

    bool takes(const Shapes& shapes) const { return within(least, shapes) && within(shapes, most); }
    std::int64_t sequence_length() const { return most.at(is_packed(most) ? "max_seqlen" : "input_mask").back(); }
    std::int64_t batch_size() const { return tokens(most) / sequence_length(); }
};

using Profiles = std::vector<Profile>;

inline std::int64_t longest(const Profiles& profiles) {
    std::int64_t length = 0;
    for (const Profile& profile : profiles) {
        length = std::max(length, profile.sequence_length());
    }
    return length;
}

// The numbers of the profiles that take these shapes, the tightest first.
inline std::vector<int> fitting(const Profiles& profiles, const Shapes& shapes) {
    std::vector<int> found;
    for (std::size_t i = 0; i < profiles.size(); ++i) {
        if (profiles[i].takes(shapes)) {
            found.push_back(static_cast<int>(i));
        }
    }
    const auto most = [&](int i) { return tokens(profiles[static_cast<std::size_t>(i)].most); };
    std::stable_sort(found.begin(), found.end(), [&](int a, int b) { return most(a) < most(b); });
    return found;
}

// For messages.
inline std::string describe(const Profiles& profiles) {
    std::string line;
    for (const Profile& profile : profiles) {
        line += line.empty() ? "" : ", ";
        line += std::to_string(profile.batch_size()) + " × " + std::to_string(profile.sequence_length());
    }
    return line;
}

}  // namespace bert
