"""What scenes are made of: textures, patterns, materials, layouts, cast shadows and the camera."""
